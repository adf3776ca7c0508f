/* Congestion control in a connection: which one, how far cwnd goes, and what losses make of it. */
#include <string.h>

#include "script.h"

static void ten(unsigned from)
{
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", from + 1000 * i, from + 1000 + 1000 * i);
}

static struct zh_net_socket *sends_ten(const char *options)
{
    struct zh_net_socket *s = script_open_with(65535, options);
    script_send(s, 100000);
    ten(1); /* RFC 6928 section 2: ten segments */
    return s;
}

/* RFC 9438 section 4.10 and RFC 5681 section 3.1: what was acknowledged is added. */
static void slow_start(void)
{
    struct zh_net_socket *s = sends_ten("mss 1000,sackOK");
    SCRIPT("+0.1 < . 1:1(0) ack 2001 win 65535", "+0 > . 10001:11001(1000) ack 1",
           "+0 > . 11001:12001(1000) ack 1", "+0 > . 12001:13001(1000) ack 1",
           "+0 > . 13001:14001(1000) ack 1");
    CHECK_EQ(s->cwnd, 12000);
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 12);
    script_abort(s);
}

/* ACKs that come in one burst count each, though only the first has found cwnd full. */
static void burst_of_acks(void)
{
    struct zh_net_socket *s = sends_ten("mss 1000,sackOK");
    SCRIPT("+0.1");
    for (unsigned i = 1; i <= 10; i++)
        SCRIPTF("+0 < . 1:1(0) ack %u win 65535", 1000 * i + 1);
    CHECK_EQ(s->cwnd, 20000);
    ten(10001);
    ten(20001);
    script_abort(s);
}

/* RFC 9438 section 5.8, RFC 7661: no growth where cwnd is not what limits; in slow start to twice
 * what is used. */
static void not_limited(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    unsigned seq = 1;
    for (unsigned i = 0; i < 20; i++, seq += 1000) {
        script_send(s, 1000);
        SCRIPTF("+0 > P. %u:%u(1000) ack 1", seq, seq + 1000);
        SCRIPTF("+0.1 < . 1:1(0) ack %u win 65535", seq + 1000);
    }
    CHECK_EQ(s->cwnd, 10000);
    script_send(s, 6000);
    for (unsigned i = 0; i < 6; i++, seq += 1000)
        SCRIPTF("+0 > %s %u:%u(1000) ack 1", i < 5 ? "." : "P.", seq, seq + 1000);
    SCRIPTF("+0.1 < . 1:1(0) ack %u win 65535", seq);
    /* NewReno counts two segments for an ACK (RFC 3465 section 2.2), HyStart++ eight (RFC 9406). */
    CHECK_EQ(s->cwnd, strcmp(s->congestion->name, "cubic") == 0 ? 16000 : 12000);
    SCRIPT("+1");
    script_abort(s);
}

/* Nor where the peer's window does. */
static void window_limited(void)
{
    struct zh_net_socket *s = script_open_with(4000, "mss 1000,sackOK");
    script_send(s, 16000);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 4; j++)
            SCRIPTF("+0 > %s %u:%u(1000) ack 1", i * 4 + j < 15 ? "." : "P.",
                    4000 * i + 1000 * j + 1, 4000 * i + 1000 * j + 1001);
        SCRIPTF("+0.1 < . 1:1(0) ack %u win 4000", 4000 * i + 4001);
    }
    CHECK_EQ(s->cwnd, 10000);
    SCRIPT("+1");
    script_abort(s);
}

static struct zh_net_socket *one_lost(const char *congestion_control)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    if (congestion_control)
        CHECK_EQ(zh_net_setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, congestion_control,
                                   (socklen_t)strlen(congestion_control)),
                 0);
    script_send(s, 10000);
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > %s %u:%u(1000) ack 1", i < 9 ? "." : "P.", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:10001>", "+0.0001 > . 1:1001(1000) ack 1",
           "+0.0999 < . 1:1(0) ack 10001 win 65535");
    return s;
}

/* RFC 9438 section 4.6: beta is 0.7. Then the window that Reno would have: 9/17 of a segment each
 * round trip (section 4.3), while it is more than the cubic function. */
static void reduction(void)
{
    struct zh_net_socket *s = one_lost(NULL);
    CHECK_EQ(s->ssthresh, 7000);
    CHECK_EQ(s->cwnd, 7000);
    script_send(s, 10000);
    for (unsigned i = 10; i < 17; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.1 < . 1:1(0) ack 17001 win 65535", "+0 > . 17001:18001(1000) ack 1",
           "+0 > . 18001:19001(1000) ack 1", "+0 > P. 19001:20001(1000) ack 1");
    CHECK(s->cwnd >= 7528 && s->cwnd <= 7530);
    SCRIPT("+0.1 < . 1:1(0) ack 20001 win 65535", "+1");
    script_abort(s);
}

static void of_a_socket(void)
{
    struct zh_net_socket *s = one_lost("newreno");
    CHECK_EQ(s->ssthresh, 5000);
    CHECK_EQ(s->cwnd, 5000);
    SCRIPT("+1");
    script_abort(s);
    CHECK_EQ(zh_net_socket(script_net, AF_INET, &s), 0);
    CHECK_EQ(zh_net_setsockopt(s, IPPROTO_TCP, TCP_CONGESTION, "vegas", 5), -ENOENT);
    zh_net_close(s);
}

/* RFC 9438 section 4.8, RFC 5681 section 3.1: a timeout leaves one segment, and slow start counts
 * one for an ACK then, whatever it covers (RFC 3465 section 2.3), up to ssthresh. */
static void timeout(void)
{
    struct zh_net_socket *s = sends_ten("mss 1000");
    SCRIPT("+0.3 > . 1:1001(1000) ack 1");
    CHECK_EQ(s->cwnd, 1000);
    CHECK_EQ(s->ssthresh, 7000);
    SCRIPT("+0.1 < . 1:1(0) ack 5001 win 65535", "+0 > . 5001:6001(1000) ack 1",
           "+0 > . 6001:7001(1000) ack 1");
    CHECK_EQ(s->cwnd, 2000);
    /* The same segment again: ssthresh stays; another: it does not. */
    SCRIPT("+0.6 > . 5001:6001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 2000);
    SCRIPT("+1.2 > . 5001:6001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 2000);
    CHECK_EQ(s->cwnd, 1000);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN_WITH(slow_start, .congestion_control = "cubic");
    RUN_WITH(burst_of_acks, .congestion_control = "cubic");
    RUN_WITH(burst_of_acks, .congestion_control = "newreno");
    RUN_WITH(not_limited, .congestion_control = "cubic");
    RUN_WITH(not_limited, .congestion_control = "newreno");
    RUN_WITH(window_limited, .congestion_control = "cubic");
    RUN_WITH(reduction, .congestion_control = "cubic");
    RUN_WITH(of_a_socket, .congestion_control = "cubic");
    RUN_WITH(timeout, .congestion_control = "cubic");
    return 0;
}
