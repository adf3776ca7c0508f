/* Options of sockets, in the ways of socket (7) and tcp (7). */
#include <netinet/tcp.h>

#include "tcp_conn.h"

enum { BUFFER_MIN = 16384 };

static int read_int(const void *value, socklen_t size, int *out)
{
    if (size < sizeof *out)
        return -EINVAL;
    memcpy(out, value, sizeof *out);
    return 0;
}

static void set_flag(struct zh_net_socket *s, uint32_t flag, bool on)
{
    s->flags = on ? s->flags | flag : s->flags & ~flag;
}

static int set_socket(struct zh_net_socket *s, int option, const void *value, socklen_t size)
{
    int number = 0;
    if (option == SO_LINGER) {
        struct linger linger;
        if (size < sizeof linger)
            return -EINVAL;
        memcpy(&linger, value, sizeof linger);
        /* A time to wait for means nothing to a socket that never waits: close sends on anyway. */
        set_flag(s, TCP_LINGER_RESET, linger.l_onoff && !linger.l_linger);
        return 0;
    }
    int error = read_int(value, size, &number);
    if (error)
        return error;
    switch (option) {
    case SO_KEEPALIVE:
        set_flag(s, TCP_KEEPALIVE_ON, number);
        tcp_keepalive_rearm(s);
        return 0;
    case SO_RCVBUF: /* packet memory, as receive_budget; of a connection only to grow */
        if (number < BUFFER_MIN)
            number = BUFFER_MIN;
        if ((uint32_t)number > s->rcv_budget || s->state == TCPS_CLOSED || s->state == TCPS_LISTEN)
            s->rcv_budget = (uint32_t)number;
        return 0;
    case SO_SNDBUF:
        s->send_limit = number < BUFFER_MIN ? BUFFER_MIN : (uint64_t)number;
        return 0;
    case SO_REUSEADDR: /* a port in TIME-WAIT can be listened on without */
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

static int set_tcp(struct zh_net_socket *s, int option, const void *value, socklen_t size)
{
    int number = 0;
    if (option == TCP_CONGESTION) {
        char name[16] = "";
        memcpy(name, value, size < sizeof name - 1 ? size : sizeof name - 1);
        const struct tcp_congestion *congestion = tcp_congestion_find(name);
        if (!congestion)
            return -ENOENT;
        s->congestion = congestion;
        if (tcp_synchronized(s))
            congestion->start(s);
        return 0;
    }
    int error = read_int(value, size, &number);
    if (error)
        return error;
    switch (option) {
    case TCP_NODELAY:
    case TCP_CORK:
        set_flag(s, option == TCP_NODELAY ? TCP_NO_DELAY : TCP_CORKED, number);
        if (tcp_synchronized(s))
            tcp_want_output(s);
        return 0;
    case TCP_QUICKACK:
        s->quick_acks = number ? 16 : 0;
        return 0;
    case TCP_MAXSEG:
        if (number < TCP_MSS_MIN || number > UINT16_MAX)
            return -EINVAL;
        s->mss_user = (uint16_t)number;
        if (tcp_synchronized(s))
            tcp_update_mss(s);
        return 0;
    case TCP_USER_TIMEOUT: /* ms */
        if (number < 0)
            return -EINVAL;
        s->user_timeout = (uint64_t)number * NET_MS;
        return 0;
    case TCP_KEEPIDLE:
    case TCP_KEEPINTVL: /* s */
        if (number < 1 || number > 32767)
            return -EINVAL;
        *(option == TCP_KEEPIDLE ? &s->keepalive_idle : &s->keepalive_interval) =
            (uint64_t)number * NET_SECOND;
        tcp_keepalive_rearm(s);
        return 0;
    case TCP_KEEPCNT:
        if (number < 1 || number > 127)
            return -EINVAL;
        s->keepalive_count = (uint8_t)number;
        return 0;
    default:
        return -ENOPROTOOPT;
    }
}

int zh_net_setsockopt(struct zh_net_socket *s, int level, int option, const void *value,
                      socklen_t size)
{
    if (level == SOL_SOCKET)
        return set_socket(s, option, value, size);
    if (level == IPPROTO_TCP)
        return set_tcp(s, option, value, size);
    return -ENOPROTOOPT;
}

static int give(const void *from, size_t have, void *value, socklen_t *size)
{
    if (*size > have)
        *size = (socklen_t)have;
    memcpy(value, from, *size);
    return 0;
}

/* Linux's numbers of states differ from the order of RFC 9293. */
static uint8_t linux_state(const struct zh_net_socket *s)
{
    static const uint8_t numbers[] = {
        [TCPS_CLOSED] = 7,       [TCPS_LISTEN] = 10,     [TCPS_SYN_SENT] = 2,
        [TCPS_SYN_RECEIVED] = 3, [TCPS_ESTABLISHED] = 1, [TCPS_FIN_WAIT_1] = 4,
        [TCPS_FIN_WAIT_2] = 5,   [TCPS_CLOSE_WAIT] = 8,  [TCPS_CLOSING] = 11,
        [TCPS_LAST_ACK] = 9,     [TCPS_TIME_WAIT] = 6,
    };
    return numbers[s->state];
}

static int give_info(const struct zh_net_socket *s, void *value, socklen_t *size)
{
    uint32_t mss = s->mss ? s->mss : TCP_MSS_DEFAULT_V4;
    uint64_t ssthresh = s->ssthresh / mss;
    struct tcp_info info = {
        .tcpi_state = linux_state(s),
        .tcpi_ca_state = s->flags & TCP_AFTER_RTO     ? 4
                         : s->flags & TCP_IN_RECOVERY ? 3
                                                      : 0,
        .tcpi_retransmits = s->retries,
        .tcpi_options = (uint8_t)((s->flags & TCP_HAS_TIMESTAMPS ? TCPI_OPT_TIMESTAMPS : 0) |
                                  (s->flags & TCP_HAS_SACK ? TCPI_OPT_SACK : 0) |
                                  (s->flags & TCP_HAS_SCALE ? TCPI_OPT_WSCALE : 0) |
                                  (s->flags & TCP_HAS_ECN ? TCPI_OPT_ECN : 0) |
                                  (s->flags & TCP_ECN_SEEN ? TCPI_OPT_ECN_SEEN : 0)),
        .tcpi_snd_wscale = s->snd_shift & 15,
        .tcpi_rcv_wscale = s->rcv_shift & 15,
        .tcpi_rto = (uint32_t)(tcp_rto_now(s) / NET_US),
        .tcpi_snd_mss = s->mss,
        .tcpi_rcv_mss = s->rcv_mss,
        .tcpi_unacked = s->sent.count,
        .tcpi_lost = s->sent.bytes_lost / mss,
        .tcpi_rtt = (uint32_t)(s->srtt / NET_US),
        .tcpi_rttvar = (uint32_t)(s->rttvar / NET_US),
        .tcpi_snd_ssthresh = ssthresh > INT32_MAX ? INT32_MAX : (uint32_t)ssthresh,
        .tcpi_snd_cwnd = (uint32_t)(s->cwnd / mss),
        .tcpi_advmss = tcp_own_mss(s->net, &s->entry.flow, s->mss_user),
        .tcpi_total_retrans = s->retransmissions,
    };
    return give(&info, sizeof info, value, size);
}

static int get_socket(struct zh_net_socket *s, int option, void *value, socklen_t *size)
{
    int number = 0;
    switch (option) {
    case SO_LINGER: {
        struct linger linger = {.l_onoff = !!(s->flags & TCP_LINGER_RESET)};
        return give(&linger, sizeof linger, value, size);
    }
    case SO_ERROR: /* once; the other calls go on giving it */
        if (!(s->flags & TCP_ERROR_GIVEN))
            number = s->error;
        if (s->error)
            s->flags |= TCP_ERROR_GIVEN;
        break;
    case SO_KEEPALIVE:
        number = !!(s->flags & TCP_KEEPALIVE_ON);
        break;
    case SO_RCVBUF:
        number = (int)s->rcv_budget;
        break;
    case SO_SNDBUF:
        number = (int)s->send_limit;
        break;
    case SO_REUSEADDR:
        number = 1;
        break;
    case SO_ACCEPTCONN:
        number = s->state == TCPS_LISTEN;
        break;
    case SO_TYPE:
        number = SOCK_STREAM;
        break;
    case SO_DOMAIN:
        number = s->family;
        break;
    default:
        return -ENOPROTOOPT;
    }
    return give(&number, sizeof number, value, size);
}

static int get_tcp(struct zh_net_socket *s, int option, void *value, socklen_t *size)
{
    int number = 0;
    switch (option) {
    case TCP_INFO:
        return give_info(s, value, size);
    case TCP_CONGESTION:
        return give(s->congestion->name, strlen(s->congestion->name) + 1, value, size);
    case TCP_NODELAY:
        number = !!(s->flags & TCP_NO_DELAY);
        break;
    case TCP_CORK:
        number = !!(s->flags & TCP_CORKED);
        break;
    case TCP_QUICKACK:
        number = !!s->quick_acks;
        break;
    case TCP_MAXSEG:
        number = s->mss ? s->mss : s->mss_user ? s->mss_user : TCP_MSS_DEFAULT_V4;
        break;
    case TCP_USER_TIMEOUT:
        number = (int)(s->user_timeout / NET_MS);
        break;
    case TCP_KEEPIDLE:
        number = (int)(s->keepalive_idle / NET_SECOND);
        break;
    case TCP_KEEPINTVL:
        number = (int)(s->keepalive_interval / NET_SECOND);
        break;
    case TCP_KEEPCNT:
        number = s->keepalive_count;
        break;
    default:
        return -ENOPROTOOPT;
    }
    return give(&number, sizeof number, value, size);
}

int zh_net_getsockopt(struct zh_net_socket *s, int level, int option, void *value, socklen_t *size)
{
    if (level == SOL_SOCKET)
        return get_socket(s, option, value, size);
    if (level == IPPROTO_TCP)
        return get_tcp(s, option, value, size);
    return -ENOPROTOOPT;
}
