/* ICMP errors about connections (RFC 5927; RFC 1122 section 4.2.3.9; path MTU: RFC 1191). */
#include "script.h"

/* RFC 5927 section 5.2: hard errors do not end a connection that is established; what is sent goes
 * on being retransmitted, and the error is told if that is given up. */
static void established(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 500);
    SCRIPT("+0 > P. 1:501(500) ack 1", "+0.1 < [1:501(500)] icmp unreachable port_unreachable",
           "+0 < [1:501(500)] icmp unreachable host_unreachable",
           "+0 < [1:501(500)] icmp unreachable protocol_unreachable", "+0.2 > P. 1:501(500) ack 1",
           "+0.1 < . 1:1(0) ack 501 win 65535");
    CHECK_STATE("ESTABLISHED");
    script_abort(s);
}

/* In SYN-SENT a hard error ends the attempt (RFC 1122 section 4.2.3.9), a soft one does not. */
static void connecting(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < [0:0(0)] icmp unreachable host_unreachable");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+0.9 > S 0:0(0) <...>", "+0.1 < [0:0(0)] icmp unreachable port_unreachable");
    CHECK(script_state() == NULL);
    script_socket_error(s, ECONNREFUSED);
    zh_net_close(s);
}

/* The soft error is the reason that is told when the timer has given up. */
static void soft_reason(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < [0:0(0)] icmp unreachable host_unreachable",
           "+0.9 > S 0:0(0) <...>", "+2 > S 0:0(0) <...>", "+4 > S 0:0(0) <...>",
           "+8 > S 0:0(0) <...>", "+16 > S 0:0(0) <...>", "+32 > S 0:0(0) <...>", "+121");
    script_socket_error(s, EHOSTUNREACH);
    zh_net_close(s);
}

/* RFC 5927 section 4.1: the quoted number must be of something that is under way. */
static void out_of_window(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < [1:1(0)] icmp unreachable port_unreachable",
           "+0 < [4294967295:4294967295(0)] icmp unreachable port_unreachable");
    CHECK_STATE("SYN-SENT");
    CHECK_EQ(script_net->stats.icmp_errors_ignored, 2);
    SCRIPT("+0.8 < S. 0:0(0) ack 1 win 5000 <mss 1460>", "+0 > . 1:1(0) ack 1");
    script_send(s, 1460);
    SCRIPT("+0 > P. 1:1461(1460) ack 1",
           "+0 < [1461:2921(1460)] icmp unreachable frag_needed mtu 800");
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1460);
    SCRIPT("+0.1 < . 1:1(0) ack 1461 win 5000");
    script_abort(s);
}

/* RFC 5927 section 5.1: source quench is ignored (RFC 6633). */
static void source_quench(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 500);
    SCRIPT("+0 > P. 1:501(500) ack 1", "+0.1 < [1:501(500)] icmp source_quench");
    CHECK_EQ(script_info(s).tcpi_snd_cwnd, 10);
    SCRIPT("+0 < . 1:1(0) ack 501 win 65535");
    script_abort(s);
}

/* RFC 1191 section 6.4: a smaller path MTU is heeded at once: what was too large goes again,
 * smaller, and no congestion is concluded from it. */
static void too_big(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 2920);
    SCRIPT("+0 > . 1:1461(1460) ack 1", "+0 > P. 1461:2921(1460) ack 1",
           "+0.01 < [1:1461(1460)] icmp unreachable frag_needed mtu 1040",
           "+0 > . 1:1001(1000) ack 1", "+0 > . 1001:1461(460) ack 1",
           "+0 > . 1461:2461(1000) ack 1", "+0 > P. 2461:2921(460) ack 1",
           "+0.1 < . 1:1(0) ack 2921 win 65535");
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1000);
    CHECK_EQ(script_info(s).tcpi_snd_ssthresh, INT32_MAX);
    script_send(s, 1500);
    SCRIPT("+0 > . 2921:3921(1000) ack 1", "+0.1 < . 1:1(0) ack 3921 win 65535",
           "+0 > P. 3921:4421(500) ack 1", "+0.1 < . 1:1(0) ack 4421 win 65535");
    script_abort(s);
}

/* A router that does not say which (RFC 1191 section 5), or says less than any link has (RFC 791:
 * 68; here never below 576). A larger one changes nothing. */
static void too_small(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 1460);
    SCRIPT("+0 > P. 1:1461(1460) ack 1",
           "+0.01 < [1:1461(1460)] icmp unreachable frag_needed mtu 2000", "+0.01",
           "+0 < [1:1461(1460)] icmp unreachable frag_needed mtu 68", "+0 > . 1:537(536) ack 1",
           "+0 > . 537:1073(536) ack 1", "+0 > P. 1073:1461(388) ack 1",
           "+0.1 < . 1:1(0) ack 1461 win 65535");
    CHECK_EQ(script_info(s).tcpi_snd_mss, 536);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(established);
    RUN(connecting);
    RUN(soft_reason);
    RUN(out_of_window);
    RUN(source_quench);
    RUN(too_big);
    RUN(too_small);
    return 0;
}
