/* SYN cookies (RFC 4987 section 3.6): what a listener without room answers, and what comes of it.
 */
#include <arpa/inet.h>
#include <string.h>

#include "net/tcp_conn.h"
#include "script.h"

enum { STEP_MS = 67109 }; /* 2^24 ticks of 4 us, rounded up: what the upper bits count */

/* A listener that has room for one, which a half-open connection of flow 31 has taken. */
static struct zh_net_socket *full_listener(void)
{
    struct zh_net_socket *listener = script_listen(1);
    script_flow(31);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    script_flow(0);
    CHECK_EQ(script_net->stats.cookies_sent, 0);
    return listener;
}

/* The room is there again. */
static void empty(void)
{
    script_flow(31);
    SCRIPT("+0 < R 1:1(0) win 0");
    script_flow(0);
}

/* Go to the end of a step of the clock, and a little more. */
static void next_step(unsigned ms)
{
    uint64_t step = UINT64_C(4000) << 24, left = step - script_now % step;
    SCRIPTF("+%.9f", (double)left / 1e9 + ms / 1e3);
}

/* All options in 6 bits of TSval: the connection has what one without a cookie has. */
static void options(void)
{
    struct zh_net_socket *listener = full_listener(), *s;
    /* The stack's clock has ticks of 1 ms; the first TSval seen counts as 100 (script.h), so that
     * what it is behind the clock is told by the next one. */
    SCRIPT("+0.1 < S 0:0(0) win 32792 <mss 1460,sackOK,TS val 7 ecr 0,nop,wscale 7>",
           "+0 > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 7,wscale 7>");
    CHECK_EQ(script_net->stats.cookies_sent, 1);
    CHECK_EQ(script_net->tcp->requests, 1); /* flow 31's */
    CHECK(script_state() == NULL);
    empty();
    SCRIPT("+0.05 < . 1:1(0) ack 1 win 257 <nop,nop,TS val 57 ecr 100>");
    CHECK_EQ(script_net->stats.cookies_accepted, 1);
    CHECK_STATE("ESTABLISHED");
    s = script_accept(listener);
    struct tcp_info info = script_info(s);
    CHECK_EQ(info.tcpi_options, TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
    CHECK_EQ(info.tcpi_snd_wscale, 7);
    CHECK_EQ(info.tcpi_rcv_wscale, 7);
    CHECK_EQ(info.tcpi_snd_mss, 1448);
    CHECK_EQ(info.tcpi_rtt, 0); /* when the SYN-ACK went is not known */
    /* RFC 7323 section 5: what follows is not older than the SYN-ACK. The clock has gone 50 ms, and
     * the cookie's stamp was at most 63 behind. */
    uint32_t stamp = (uint32_t)(script_now / NET_MS) + s->ts_offset;
    uint32_t cookie = (stamp - 50) & ~63u;
    cookie |= 7 | 16; /* scale 7, SACK */
    if (cookie > stamp - 50)
        cookie -= 64;
    script_send(s, 100);
    SCRIPTF("+0 > P. 1:101(100) ack 1 <TS val %u ecr 57>", 100 + stamp - cookie);
    SCRIPT("+0.05 < P. 1:201(200) ack 101 win 257 <nop,nop,TS val 107 ecr 150>");
    SCRIPTF("+0 > . 101:101(0) ack 201 <TS val %u ecr 107>", 150 + stamp - cookie);
    script_recv(s, 200);
    zh_net_close(listener);
    script_abort(s);
}

/* Every combination comes back, and no TSval is newer than the clock or more than 63 ms older. */
static void options_all(void)
{
    struct zh_net_socket *listener = script_listen(8);
    for (int i = 0; i < 64; i++) {
        int shift = i % 16; /* 15: none */
        bool sack = i & 16, ecn = i & 32;
        char scale[24] = "", want[24] = "";
        if (shift < 15) {
            snprintf(scale, sizeof scale, ",nop,wscale %d", shift);
            snprintf(want, sizeof want, ",wscale 7");
        }
        SCRIPTF("+0.0%02d < S%s 0:0(0) win 1000 <mss 1400,TS val 7 ecr 0%s%s>", i, ecn ? "EW" : "",
                sack ? ",sackOK" : "", scale);
        SCRIPTF("+0 > S%s. 0:0(0) ack 1 <mss 1460%s,TS val 100 ecr 7%s>", ecn ? "E" : "",
                sack ? ",sackOK" : "", want);
        SCRIPT("+0 < . 1:1(0) ack 1 win 100 <nop,nop,TS val 8 ecr 100>");
        struct zh_net_socket *s = script_accept(listener);
        struct tcp_info info = script_info(s);
        CHECK_EQ(info.tcpi_options, TCPI_OPT_TIMESTAMPS | (sack ? TCPI_OPT_SACK : 0) |
                                        (shift < 15 ? TCPI_OPT_WSCALE : 0) |
                                        (ecn ? TCPI_OPT_ECN : 0));
        CHECK_EQ(info.tcpi_snd_wscale, shift < 15 ? shift : 0);
        CHECK_EQ(s->snd_wnd, 100u << info.tcpi_snd_wscale);
        CHECK_EQ(info.tcpi_snd_mss, 1388);
        script_send(s, 1); /* its stamp is the clock's: not older than the cookie's */
        SCRIPT("* > P. 1:2(1) ack 1 <...>");
        script_abort(s);
        script_forget();
    }
    CHECK_EQ(script_net->stats.cookies_accepted, 64);
    zh_net_close(listener);
}

/* Without timestamps there is no place for scale, SACK and ECN: none is agreed to, and the peer's
 * windows are taken as they stand. */
static void without_timestamps(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0.1 < SEW 0:0(0) win 32792 <mss 1460,sackOK,nop,wscale 7>",
           "+0 > S. 0:0(0) ack 1 win 65535 <mss 1460>");
    SCRIPT("+0.05 < . 1:1(0) ack 1 win 3000");
    s = script_accept(listener);
    zh_net_close(listener);
    CHECK_EQ(script_info(s).tcpi_options, 0);
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1460);
    script_send(s, 3100);
    SCRIPT("+0 > . 1:1461(1460) ack 1", "+0 > . 1461:2921(1460) ack 1", "+0.1");
    script_abort(s);
}

/* The MSS is the largest of the table that is not more than the peer's; without the option it is
 * the default (RFC 9293 section 3.7.1). */
static void mss(void)
{
    static const unsigned pairs[][2] = {{0, 536},     {60, 88},     {88, 88},     {535, 88},
                                        {536, 536},   {1219, 536},  {1220, 1220}, {1359, 1220},
                                        {1399, 1360}, {1439, 1400}, {1440, 1440}, {1459, 1440},
                                        {1460, 1460}, {8939, 1460}, {8960, 1460}};
    struct zh_net_socket *listener = script_listen(8);
    for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        script_forget();
        if (pairs[i][0])
            SCRIPTF("+0 < S 0:0(0) win 1000 <mss %u>", pairs[i][0]);
        else
            SCRIPT("+0 < S 0:0(0) win 1000");
        SCRIPT("+0 > S. 0:0(0) ack 1 <mss 1460>", "+0.1 < . 1:1(0) ack 1 win 1000");
        struct zh_net_socket *s = script_accept(listener);
        CHECK_EQ(script_info(s).tcpi_snd_mss, pairs[i][1]);
        script_abort(s);
    }
    zh_net_close(listener);
}

/* What the ACK carries is taken in, and data does as well where the bare ACK was lost. */
static void with_data(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < FP. 1:501(500) ack 1 win 1000", "+0 > . 1:1(0) ack 502");
    s = script_accept(listener);
    script_recv(s, 500);
    script_recv(s, 0);
    zh_net_close(listener);
    script_abort(s);
}

/* Where the first data was lost too, what comes after it does not end the connection: the peer will
 * send the first again. */
static void with_data_lost(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < . 501:1001(500) ack 1 win 1000", "+0 < FP. 1001:1101(100) ack 1 win 1000",
           "+0.3 < . 1:501(500) ack 1 win 1000", "+0 > . 1:1(0) ack 501",
           "+0 < . 501:1101(600) ack 1 win 1000", "+0 > . 1:1(0) ack 1101");
    s = script_accept(listener);
    script_recv(s, 500);
    script_recv(s, 600);
    zh_net_close(listener);
    script_abort(s);
}

/* A cookie is good until the upper bits have changed twice: for 67 s at least, 134 at most. */
static void lifetime(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    next_step(STEP_MS - 10);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000");
    s = script_accept(listener);
    script_abort(s);
    script_forget();

    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    next_step(STEP_MS + 10);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000", "+0 > R 1:1(0) win 0");
    CHECK_EQ(script_net->stats.cookies_accepted, 1);
    CHECK(script_state() == NULL);
    zh_net_close(listener);
}

/* Everything that is not the cookie, for this flow and this sequence number, is refused (RFC 9293
 * section 3.10.7.2, second: <SEQ=SEG.ACK><CTL=RST>). */
static void forged(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           /* MSS 1460 is number 6 of the table: one less than 0, one more than 7 */
           "+0 < . 1:1(0) ack 4294967290 win 1000", "+0 > R 4294967290:4294967290(0)",
           "+0 < . 1:1(0) ack 3 win 1000", "+0 > R 3:3(0)",
           /* of the next step */
           "+0 < . 1:1(0) ack 16777217 win 1000", "+0 > R 16777217:16777217(0)",
           /* of another SYN */
           "+0 < . 2:2(0) ack 1 win 1000", "+0 > R 1:1(0)", "+0 < . 0:0(0) ack 1 win 1000",
           "+0 > R 1:1(0)");
    CHECK_EQ(script_net->stats.cookies_bad, 5);
    /* As if it were of another of the peer's ports: the same number is wrong there. */
    uint32_t iss = script_iss();
    script_flow(1);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    uint32_t other = iss - script_iss() + 1;
    SCRIPTF("+0 < . 1:1(0) ack %u win 1000", other);
    SCRIPTF("+0 > R %u:%u(0)", other, other);
    /* No reset answers a reset. */
    SCRIPT("+0 < R. 1:1(0) ack 55 win 1000", "+0.1");
    CHECK_EQ(script_net->stats.cookies_bad, 6);
    CHECK_EQ(script_net->stats.cookies_accepted, 0);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000");
    s = script_accept(listener);
    script_abort(s);
    script_flow(0);
    zh_net_close(listener);
}

/* Guesses are answered by 50 resets, then by one in each ms; when no cookie can be good any more,
 * as by every listener. */
static void forged_limit(void)
{
    struct zh_net_socket *listener = script_listen(8);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>", "+1");
    for (int i = 0; i < 200; i++)
        SCRIPTF("+0 < . 1:1(0) ack %d win 1000", 1000 + i);
    CHECK_EQ(script_discard(), 50);
    SCRIPT("+0.003");
    for (int i = 0; i < 200; i++)
        SCRIPTF("+0 < . 1:1(0) ack %d win 1000", 2000 + i);
    CHECK_EQ(script_discard(), 3);
    CHECK_EQ(script_net->stats.cookies_bad, 400);
    next_step(2 * STEP_MS);
    for (int i = 0; i < 60; i++) /* what fits in a burst of the stack's */
        SCRIPTF("+0 < . 1:1(0) ack %d win 1000", 3000 + i);
    CHECK_EQ(script_discard(), 60);
    CHECK_EQ(script_net->stats.cookies_bad, 400);
    zh_net_close(listener);
}

/* No cookie was sent: none is taken, though it would be right. */
static void not_sent(void)
{
    struct zh_net_socket *listener = full_listener();
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    empty();
    zh_net_close(listener);
    listener = script_listen(1);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000", "+0 > R 1:1(0)");
    CHECK_EQ(script_net->stats.cookies_bad, 0);
    zh_net_close(listener);
}

/* Connections that nobody accepts leave no room, cookies or not: the SYN is dropped, and of a
 * cookie's ACK nothing comes until the queue is shorter; the peer's next segment does as well. */
static void backlog(void)
{
    struct zh_net_socket *listener = full_listener(), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    script_flow(31);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000");
    script_flow(0);
    SCRIPT("+0 < . 1:1(0) ack 1 win 1000", "+0.1");
    CHECK(script_state() == NULL);
    CHECK_EQ(script_net->stats.cookies_accepted, 0);
    script_flow(1);
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0.1");
    CHECK_EQ(script_net->stats.tcp_listen_overflow, 2);
    script_flow(31);
    s = script_accept(listener);
    script_abort(s);
    script_flow(0);
    SCRIPT("+0 < P. 1:101(100) ack 1 win 1000", "+0 > . 1:1(0) ack 101");
    s = script_accept(listener);
    script_recv(s, 100);
    zh_net_close(listener);
    script_abort(s);
}

/* The SYN came twice, and the second time there was room: the ACK may be of either answer. */
static void then_request(void)
{
    struct zh_net_socket *listener = full_listener(), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    uint32_t iss = script_iss();
    empty();
    script_forget();
    SCRIPT("+1 < S 0:0(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    CHECK_STATE("SYN-RECEIVED");
    SCRIPTF("+0 < . 1:1(0) ack %u win 1000", iss - script_iss() + 1);
    CHECK_STATE("ESTABLISHED");
    CHECK_EQ(script_net->tcp->requests, 0);
    s = script_accept(listener);
    CHECK_EQ(s->iss, iss);
    script_abort(s); /* its numbers are the first answer's */
    zh_net_close(listener);
}

static struct net_addr address(const char *text)
{
    return net_addr_v4(inet_addr(text));
}

/* RFC 6528: a cookie is within one step of what it stands for, so that later connections of the
 * same ports have later numbers. */
static void grows(void)
{
    struct zh_net_socket *listener = script_listen(1);
    struct tcp_flow flow = {.local = address("10.0.0.1"),
                            .remote = address("10.0.0.2"),
                            .local_port = htons(SCRIPT_PORT),
                            .remote_port = htons(SCRIPT_CLIENT)};
    uint32_t hash = tcp_isn(script_net, &flow) - (uint32_t)(script_now / 4000), last = 0;
    for (int i = 0; i < 10; i++) {
        script_forget();
        SCRIPT("+0 < S 0:0(0) win 100 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
        uint32_t m = script_iss() - hash;
        CHECK_EQ(m >> 24, (uint8_t)(script_now / 4000 >> 24));
        CHECK(m != last);
        last = m;
        next_step(1);
    }
    zh_net_close(listener);
}

/* --- a flood ------------------------------------------------------------------------------------
 */

static uint32_t sum(uint32_t value, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i += 2)
        value += (uint32_t)data[i] << 8 | data[i + 1];
    return value;
}

static void put(uint8_t *to, unsigned size, uint32_t value)
{
    while (size--) {
        to[size] = (uint8_t)value;
        value >>= 8;
    }
}

static uint32_t fold(uint32_t value)
{
    value = (value & 0xffff) + (value >> 16);
    return ~((value & 0xffff) + (value >> 16)) & 0xffff;
}

/* A SYN of anywhere. */
static void flood_one(uint32_t number)
{
    uint64_t x = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    uint8_t ip[44] = {0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6}, *tcp = ip + 20;
    put(ip + 12, 4, UINT32_C(0xc0000000) | ((uint32_t)(x >> 32) & 0xffffff)); /* 192... */
    put(ip + 16, 4, UINT32_C(0x0a000001));
    put(ip + 10, 2, fold(sum(0, ip, 20)));
    put(tcp, 2, (uint32_t)(x >> 8 & 0xffff) | 1);
    put(tcp + 2, 2, SCRIPT_PORT);
    put(tcp + 4, 4, (uint32_t)(x >> 16));
    tcp[12] = 6 << 4;
    tcp[13] = TCP_SYN;
    put(tcp + 14, 2, 65535);
    put(tcp + 20, 4, UINT32_C(0x020405b4));
    put(tcp + 16, 2, fold(sum(6 + 24, ip + 12, 32)));
    script_input(ip, sizeof ip);
}

enum { FLOOD = 1000000, BURST = 500, HALF_OPEN = 64 };

/* A million SYNs of spoofed addresses: memory is bounded by max_half_open, everyone gets an answer,
 * and who is real is served, before, during and after. */
static void flood(void)
{
    struct zh_net_socket *listener = script_listen(1024), *s[3];
    uint64_t answers = 0;
    unsigned served = 0;
    for (unsigned n = 0; n < FLOOD; n += BURST) {
        for (unsigned i = 0; i < BURST; i++)
            flood_one(n + i);
        answers += script_discard();
        CHECK(script_net->tcp->requests <= HALF_OPEN);
        CHECK(script_net->tcp->sockets == 1 + served);
        if (n == 0 || n == FLOOD / 2 || n + BURST >= FLOOD) {
            script_flow(served);
            SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460,sackOK,TS val 7 ecr 0,nop,wscale 7>",
                   "+0 > S. 0:0(0) ack 1 <mss 1460,sackOK,TS val 100 ecr 7,wscale 7>",
                   "+0.0001 < P. 1:101(100) ack 1 win 257 <nop,nop,TS val 8 ecr 100>",
                   "+0 > . 1:1(0) ack 101 <...>");
            s[served] = script_accept(listener);
            script_recv(s[served++], 100);
        }
    }
    /* All were answered but those that met the ARP queue before the gateway was known. */
    CHECK_EQ(answers,
             FLOOD + script_net->stats.tcp_out_retransmitted - script_net->stats.neighbour_dropped);
    CHECK(script_net->stats.cookies_sent >= FLOOD - HALF_OPEN);
    CHECK_EQ(script_net->stats.cookies_accepted, 3);
    for (unsigned i = 0; i < served; i++) {
        script_flow(i);
        script_abort(s[i]);
    }
    zh_net_close(listener);
}

/* Every SYN by a cookie, when so configured. */
static void always(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>");
    CHECK_EQ(script_net->tcp->requests, 0);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 1000");
    s = script_accept(listener);
    CHECK_EQ(script_net->stats.cookies_accepted, 1);
    zh_net_close(listener);
    script_abort(s);
}

int main(void)
{
    struct zh_net_route gateway;
    memset(&gateway, 0, sizeof gateway);
    CHECK_EQ(zh_net_prefix_parse("0.0.0.0/0", &gateway.destination), 0);
    CHECK_EQ(zh_net_prefix_parse("10.0.0.2", &gateway.gateway), 0);
    script_start();
    RUN(options);
    RUN_WITH(options_all, .always_cookies = true);
    RUN_WITH(without_timestamps, .always_cookies = true);
    RUN_WITH(mss, .always_cookies = true);
    RUN_WITH(with_data, .always_cookies = true);
    RUN_WITH(with_data_lost, .always_cookies = true);
    RUN_WITH(lifetime, .always_cookies = true);
    RUN_WITH(forged, .always_cookies = true);
    RUN_WITH(forged_limit, .always_cookies = true);
    RUN(not_sent);
    RUN(backlog);
    RUN(then_request);
    RUN_WITH(grows, .always_cookies = true);
    RUN_WITH(always, .always_cookies = true);
    RUN_WITH(flood, .routes = &gateway, .route_count = 1, .max_half_open = HALF_OPEN);
    return 0;
}
