/* Path MTU discovery (RFC 1191; RFC 8201 for IPv6), and what is believed of it (RFC 5927). */
#include "script.h"

static int maxseg(struct zh_net_socket *s)
{
    int value = 0;
    socklen_t size = sizeof value;
    CHECK_EQ(zh_net_getsockopt(s, IPPROTO_TCP, TCP_MAXSEG, &value, &size), 0);
    return value;
}

/* Three segments of the link's MTU, 1500. */
static struct zh_net_socket *open_three(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 4380);
    SCRIPT("+0 > . 1:1461(1460) ack 1", "+0 > . 1461:2921(1460) ack 1",
           "+0 > P. 2921:4381(1460) ack 1");
    return s;
}

/* A router that says what it takes (RFC 1191 section 4): all that is too large goes again at once,
 * in pieces, and the congestion window stays (section 6.5). */
static void told(void)
{
    struct zh_net_socket *s = open_three();
    CHECK_EQ(maxseg(s), 1460);
    SCRIPT("+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 > . 1:1161(1160) ack 1", "+0 > . 1161:1461(300) ack 1",
           "+0 > . 1461:2621(1160) ack 1", "+0 > . 2621:2921(300) ack 1",
           "+0 > . 2921:4081(1160) ack 1", "+0 > P. 4081:4381(300) ack 1",
           /* The router has dropped the others too: nothing new. */
           "+0 < [1461:2921(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 < [2921:4381(1460)] icmp unreachable frag_needed mtu 1200");
    CHECK_EQ(maxseg(s), 1160);
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1160);
    CHECK_EQ(script_info(s).tcpi_advmss, 1460); /* of our own link */
    CHECK_EQ(s->cwnd, 14600);
    CHECK_EQ(s->ssthresh, UINT64_MAX);
    CHECK_EQ(script_info(s).tcpi_ca_state, 0);
    SCRIPT("+0.1 < . 1:1(0) ack 4381 win 65535");
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    script_send(s, 1500);
    SCRIPT("+0 > . 4381:5541(1160) ack 1", "+0.1 < . 1:1(0) ack 5541 win 65535",
           "+0 > P. 5541:5881(340) ack 1", "+0.1 < . 1:1(0) ack 5881 win 65535");
    script_abort(s);
}

/* One that does not (section 5): the next size of the table (section 7.1) below that of the packet
 * it quotes, so that several errors about one burst lower it once. */
static void not_told(void)
{
    struct zh_net_socket *s = open_three();
    SCRIPT("+0.05 < [1:1461(1460)] icmp unreachable frag_needed",
           "+0 < [1461:2921(1460)] icmp unreachable frag_needed",
           "+0 < [2921:4381(1460)] icmp unreachable frag_needed", "+0 > . 1:1453(1452) ack 1",
           "+0 > . 1453:1461(8) ack 1", "+0 > . 1461:2913(1452) ack 1", "+0 > . 2913:2921(8) ack 1",
           "+0 > . 2921:4373(1452) ack 1", "+0 > P. 4373:4381(8) ack 1");
    CHECK_EQ(maxseg(s), 1452);
    SCRIPT("+0.05 < [1:1453(1452)] icmp unreachable frag_needed", "+0 > . 1:967(966) ack 1",
           "+0 > . 967:1453(486) ack 1", "+0 > . 1461:2427(966) ack 1",
           "+0 > . 2427:2913(486) ack 1", "+0 > . 2921:3887(966) ack 1",
           "+0 > . 3887:4373(486) ack 1");
    CHECK_EQ(maxseg(s), 966); /* 1006 */
    SCRIPT("+0.1 < . 1:1(0) ack 4381 win 65535");
    script_abort(s);
}

/* The last piece has the FIN. */
static void with_fin(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 1460);
    zh_net_shutdown(s, SHUT_WR);
    SCRIPT("+0 > FP. 1:1461(1460) ack 1",
           "+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 1000",
           "+0 > . 1:961(960) ack 1", "+0 > FP. 961:1461(500) ack 1",
           "+0.05 < . 1:1(0) ack 1462 win 65535");
    CHECK_STATE("FIN-WAIT-2");
    script_abort(s);
}

/* Each piece is acknowledged, and lost, by itself. */
static void with_sack(void)
{
    struct zh_net_socket *listener = script_listen(1);
    SCRIPT("+0 < S 0:0(0) win 65535 <mss 1460,sackOK>", "+0 > S. 0:0(0) ack 1 <mss 1460,sackOK>",
           "+0.1 < . 1:1(0) ack 1 win 65535");
    struct zh_net_socket *s = script_accept(listener);
    zh_net_close(listener);
    script_send(s, 1460);
    SCRIPT("+0 > P. 1:1461(1460) ack 1",
           "+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 1000",
           "+0 > . 1:961(960) ack 1", "+0 > P. 961:1461(500) ack 1",
           "+0.1 < . 1:1(0) ack 1 win 65535 <sack 961:1461>", "* > . 1:961(960) ack 1",
           "+0.1 < . 1:1(0) ack 1461 win 65535", "+10");
    script_abort(s);
}

/* RFC 5927 sections 4.1 and 7.2: what is not under way, was acknowledged, or cannot have been
 * dropped for its size is not believed. */
static void ignored(void)
{
    struct zh_net_socket *s = open_three();
    SCRIPT("+0.1 < . 1:1(0) ack 1461 win 65535",
           "+0 < [4381:5841(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 < [1:1461(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 < [3000000:3001460(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 < [1461:2921(1460)] icmp unreachable frag_needed mtu 1500",
           "+0 < [1461:1561(100)] icmp unreachable frag_needed mtu 1200", "+0.01");
    CHECK_EQ(script_net->stats.icmp_errors_ignored, 5);
    CHECK_EQ(maxseg(s), 1460);
    SCRIPT("+0.1 < . 1:1(0) ack 4381 win 65535",
           "+0 < [4381:5841(1460)] icmp unreachable frag_needed mtu 1200", "+0");
    CHECK_EQ(script_net->stats.icmp_errors_ignored, 6);
    CHECK_EQ(maxseg(s), 1460);
    /* To another of the peer's ports. */
    script_flow(1);
    SCRIPT("+0 < [0:1460(1460)] icmp unreachable frag_needed mtu 1200", "+0");
    CHECK_EQ(script_net->stats.icmp_errors_ignored, 7);
    script_flow(0);
    script_abort(s);
}

/* Not below 576 (RFC 5927 section 7.2: against errors that would have headers sent and nothing
 * else), though the least link has 68. */
static void least(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 1460);
    SCRIPT("+0 > P. 1:1461(1460) ack 1",
           "+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 68", "+0 > . 1:537(536) ack 1",
           "+0 > . 537:1073(536) ack 1", "+0 > P. 1073:1461(388) ack 1",
           "+0 < [1:537(536)] icmp unreachable frag_needed mtu 68", "+0.01");
    CHECK_EQ(maxseg(s), 536);
    SCRIPT("+0.05 < . 1:1(0) ack 1461 win 65535");
    script_abort(s);
}

/* After ten minutes the link's MTU is tried again (RFC 1191 section 6.3); if it still is too much,
 * the router says so again. */
static void expiry(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1460");
    script_send(s, 1460);
    SCRIPT("+0 > P. 1:1461(1460) ack 1",
           "+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 > . 1:1161(1160) ack 1", "+0 > P. 1161:1461(300) ack 1",
           "+0.05 < . 1:1(0) ack 1461 win 65535", "+599.949999999");
    script_send(s, 1460);
    SCRIPT("+0 > . 1461:2621(1160) ack 1", "+0.000000001 < . 1:1(0) ack 2621 win 65535",
           "+0 > P. 2621:2921(300) ack 1", "+0.1 < . 1:1(0) ack 2921 win 65535");
    script_send(s, 1460);
    SCRIPT("+0 > P. 2921:4381(1460) ack 1");
    CHECK_EQ(maxseg(s), 1460);
    SCRIPT("+0.05 < [2921:4381(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 > . 2921:4081(1160) ack 1", "+0 > P. 4081:4381(300) ack 1",
           "+0.05 < . 1:1(0) ack 4381 win 65535");
    script_abort(s);
}

/* It is the path's, not the connection's: the next one to this host begins with it. What we
 * announce is what our link takes. */
static void shared(void)
{
    struct zh_net_socket *s[2];
    s[0] = open_three();
    SCRIPT("+0.05 < [1:1461(1460)] icmp unreachable frag_needed mtu 1200",
           "+0 > . 1:1161(1160) ack 1", "+0 > . 1161:1461(300) ack 1",
           "+0 > . 1461:2621(1160) ack 1", "+0 > . 2621:2921(300) ack 1",
           "+0 > . 2921:4081(1160) ack 1", "+0 > P. 4081:4381(300) ack 1",
           "+0.05 < . 1:1(0) ack 4381 win 65535");
    script_flow(1);
    s[1] = script_open_with(65535, "mss 1460");
    CHECK_EQ(maxseg(s[1]), 1160);
    CHECK_EQ(script_info(s[1]).tcpi_advmss, 1460);
    script_abort(s[1]);
    script_flow(0);
    script_abort(s[0]);
}

/* TCP_MAXSEG bounds both what is announced and what is sent. */
static void by_option(void)
{
    struct zh_net_socket *listener = script_listen(1), *s;
    script_set(listener, IPPROTO_TCP, TCP_MAXSEG, 700);
    SCRIPT("+0 < S 0:0(0) win 65535 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 700>",
           "+0.1 < . 1:1(0) ack 1 win 65535");
    s = script_accept(listener);
    zh_net_close(listener);
    CHECK_EQ(maxseg(s), 700);
    script_send(s, 700);
    SCRIPT("+0 > P. 1:701(700) ack 1", "+0.1 < . 1:1(0) ack 701 win 65535");
    script_abort(s);
}

/* RFC 8201 section 4: the same, and never below 1280. */
static void ipv6(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1440");
    script_send(s, 2880);
    SCRIPT("+0 > . 1:1441(1440) ack 1", "+0 > P. 1441:2881(1440) ack 1",
           "+0.05 < [1:1441(1440)] icmp packet_too_big mtu 1400", "+0 > . 1:1341(1340) ack 1",
           "+0 > . 1341:1441(100) ack 1", "+0 > . 1441:2781(1340) ack 1",
           "+0 > P. 2781:2881(100) ack 1");
    CHECK_EQ(maxseg(s), 1340);
    SCRIPT("+0 < [1:1341(1340)] icmp packet_too_big mtu 1000", "+0 > . 1:1221(1220) ack 1",
           "+0 > . 1221:1341(120) ack 1", "+0 > . 1441:2661(1220) ack 1",
           "+0 > . 2661:2781(120) ack 1");
    CHECK_EQ(maxseg(s), 1220);
    SCRIPT("+0 < [5000:6000(1000)] icmp packet_too_big mtu 1300",
           "+0.05 < . 1:1(0) ack 2881 win 65535");
    CHECK_EQ(script_net->stats.icmp_errors_ignored, 1);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(told);
    RUN(not_told);
    RUN(with_fin);
    RUN(with_sack);
    RUN(ignored);
    RUN(least);
    RUN(expiry);
    RUN(shared);
    RUN(by_option);
    RUN_IPV6(ipv6);
    return 0;
}
