/* Loss recovery toward a peer without SACK: fast retransmit and recovery (RFC 5681 section 3.2),
 * limited transmit (RFC 3042), partial ACKs (RFC 6582). Segments of 1000 bytes, an initial window
 * of 10 (RFC 6928). */
#include "script.h"

static struct zh_net_socket *send_ten(size_t size)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, size);
    for (int i = 0; i < 10; i++)
        SCRIPTF("+0 > %s %d:%d(1000) ack 1", (size_t)i * 1000 + 1000 == size ? "P." : ".",
                i * 1000 + 1, i * 1000 + 1001);
    return s;
}

/* Three duplicates, not fewer, and the segment goes again, without waiting for the timer. ssthresh
 * is half of what was under way (RFC 5681 equation 4). */
static void fast_retransmit(void)
{
    struct zh_net_socket *s = send_ten(10000);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535", "+0.001 < . 1:1(0) ack 1 win 65535", "+0.001");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    SCRIPT("+0 < . 1:1(0) ack 1 win 65535", "+0 > . 1:1001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 1);
    CHECK_EQ(script_info(s).tcpi_snd_ssthresh, 5);
    SCRIPT("+0.1 < . 1:1(0) ack 10001 win 65535", "+0.01");
    /* RFC 6582 section 3.2 step 3: at the end cwnd is at most ssthresh. */
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 5);
    CHECK_EQ(script_info(s).tcpi_ca_state, 0);
    script_abort(s);
}

/* RFC 3042: the first two duplicates let a new segment go each. */
static void limited_transmit(void)
{
    struct zh_net_socket *s = send_ten(13000);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535", "+0 > . 10001:11001(1000) ack 1",
           "+0.001 < . 1:1(0) ack 1 win 65535", "+0 > . 11001:12001(1000) ack 1",
           "+0.001 < . 1:1(0) ack 1 win 65535", "+0 > . 1:1001(1000) ack 1");
    SCRIPT("+0.1 < . 1:1(0) ack 12001 win 65535", "+0 > P. 12001:13001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 13001 win 65535");
    script_abort(s);
}

/* RFC 6582 section 3.2 step 3: a partial ACK says that the next segment is lost too: it goes at
 * once.
 */
static void partial_ack(void)
{
    struct zh_net_socket *s = send_ten(10000);
    /* 1 and 4001 are lost. */
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535", "+0 < . 1:1(0) ack 1 win 65535",
           "+0 < . 1:1(0) ack 1 win 65535", "+0 > . 1:1001(1000) ack 1",
           "+0.01 < . 1:1(0) ack 1 win 65535", "+0.01 < . 1:1(0) ack 1 win 65535",
           "+0.01 < . 1:1(0) ack 1 win 65535", "+0.01 < . 1:1(0) ack 1 win 65535",
           "+0.06 < . 1:1(0) ack 4001 win 65535", "+0 > . 4001:5001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 10001 win 65535", "+0.01");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 1);
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    CHECK_EQ(script_info(s).tcpi_ca_state, 0);
    script_abort(s);
}

/* RFC 5681 section 2: what is no duplicate ACK: one with data, one that moves the window, one when
 * nothing is under way. */
static void no_duplicates(void)
{
    struct zh_net_socket *s = send_ten(10000);
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535", "+0 < P. 101:201(100) ack 1 win 65535",
           "+0 < P. 201:301(100) ack 1 win 65535", "+0 < P. 301:401(100) ack 1 win 65535",
           "+0 > . 10001:10001(0) ack 401", "+0.01 < . 401:401(0) ack 1 win 65534",
           "+0 < . 401:401(0) ack 1 win 65533", "+0 < . 401:401(0) ack 1 win 65532",
           "+0 < . 401:401(0) ack 1 win 65531", "+0.01");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    SCRIPT("+0 < . 401:401(0) ack 10001 win 65535", "+0.01 < . 401:401(0) ack 10001 win 65535",
           "+0 < . 401:401(0) ack 10001 win 65535", "+0 < . 401:401(0) ack 10001 win 65535",
           "+0.01");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    script_recv(s, 400);
    script_abort(s);
}

/* RFC 6582 section 4 and section 3.2 step 2: after a timeout duplicates of what was sent before it
 * do not begin a recovery. */
static void after_timeout(void)
{
    struct zh_net_socket *s = send_ten(10000);
    SCRIPT("+0.3 > . 1:1001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 1);
    CHECK_EQ(script_info(s).tcpi_snd_ssthresh, 5);
    SCRIPT("+0.01 < . 1:1(0) ack 1 win 65535", "+0 < . 1:1(0) ack 1 win 65535",
           "+0 < . 1:1(0) ack 1 win 65535", "+0 < . 1:1(0) ack 1 win 65535");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    zh_net_poll(script_net, script_now);
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    script_abort(s);
}

/* RFC 5681 section 3.1, RFC 3465: in slow start each ACK of two segments opens the window by two.
 */
static void slow_start(void)
{
    struct zh_net_socket *s = send_ten(14000);
    SCRIPT("+0.1 < . 1:1(0) ack 2001 win 65535", "+0 > . 10001:11001(1000) ack 1",
           "+0 > . 11001:12001(1000) ack 1", "+0 > . 12001:13001(1000) ack 1",
           "+0 > P. 13001:14001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 12);
    SCRIPT("+0.1 < . 1:1(0) ack 14001 win 65535");
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(fast_retransmit);
    RUN(limited_transmit);
    RUN(partial_ack);
    RUN(no_duplicates);
    RUN(after_timeout);
    RUN(slow_start);
    return 0;
}
