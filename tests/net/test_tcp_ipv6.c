/* TCP over IPv6 (RFC 8200): handshakes both ways, data, what an MSS is there, and a listener that
 * takes both. */
#include <arpa/inet.h>
#include <string.h>

#include "script.h"

/* MTU 1500 less 60 (RFC 9293 section 3.7.1). */
static void passive(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0.1 < S 0:0(0) win 32792 <mss 1440,sackOK,TS val 7 ecr 0,nop,wscale 7>",
           "+0 > S. 0:0(0) ack 1 win 65535 <mss 1440,sackOK,TS val 100 ecr 7,wscale 7>",
           "+0.05 < . 1:1(0) ack 1 win 257 <nop,nop,TS val 57 ecr 100>");
    s = script_accept(listener);
    zh_net_close(listener);
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1428);
    script_send(s, 2000);
    SCRIPT("+0 > . 1:1429(1428) ack 1 <TS val 150 ecr 57>",
           "+0.05 < P. 1:501(500) ack 1429 win 257 <nop,nop,TS val 107 ecr 150>",
           "+0 > P. 1429:2001(572) ack 501 <TS val 200 ecr 107>",
           "+0.05 < . 501:501(0) ack 2001 win 257 <nop,nop,TS val 157 ecr 200>");
    script_recv(s, 500);
    struct sockaddr_storage peer;
    char text[INET6_ADDRSTRLEN];
    CHECK_EQ(zh_net_getpeername(s, &peer), 0);
    CHECK_EQ(peer.ss_family, AF_INET6);
    CHECK(strcmp(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&peer)->sin6_addr, text, sizeof text),
                 "fd00::2") == 0);
    zh_net_close(s);
    SCRIPT("+0 > F. 2001:2001(0) ack 501 <...>",
           "+0.05 < F. 501:501(0) ack 2002 win 257 <nop,nop,TS val 207 ecr 300>",
           "+0 > . 2002:2002(0) ack 502 <...>");
    CHECK_STATE("TIME-WAIT");
}

/* Without an MSS the peer's is 1220 (RFC 9293 section 3.7.1, MUST-15). */
static void passive_bare(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 4000", "+0 > S. 0:0(0) ack 1 win 65535 <mss 1440>",
           "+0.1 < . 1:1(0) ack 1 win 4000");
    s = script_accept(listener);
    zh_net_close(listener);
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1220);
    CHECK_EQ(script_info(s).tcpi_advmss, 1440);
    script_send(s, 1300);
    SCRIPT("+0 > . 1:1221(1220) ack 1", "+0.1 < . 1:1(0) ack 1221 win 4000",
           "+0 > P. 1221:1301(80) ack 1", "+0.1 < . 1:1(0) ack 1301 win 4000");
    script_abort(s);
}

static void active(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) win 65535 <mss 1440,sackOK,TS val 100 ecr 0,wscale 7>",
           "+0.08 < S. 0:0(0) ack 1 win 5792 <mss 1300,sackOK,TS val 700 ecr 100,nop,wscale 2>",
           "+0 > . 1:1(0) ack 1 <TS val 180 ecr 700>");
    CHECK_STATE("ESTABLISHED");
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1288);
    struct sockaddr_storage local;
    char text[INET6_ADDRSTRLEN];
    CHECK_EQ(zh_net_getsockname(s, &local), 0);
    CHECK(
        strcmp(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&local)->sin6_addr, text, sizeof text),
               "fd00::1") == 0);
    script_abort(s);
}

/* RFC 4443 section 3.1: nobody listens there. As over IPv4, the connection is told. */
static void refused(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < R. 0:0(0) ack 1 win 0");
    script_socket_error(s, ECONNREFUSED);
    zh_net_close(s);
}

/* A listener of IPv6 at any address takes IPv4 as well, whose addresses are then mapped ones (RFC
 * 3493 section 3.7). */
static void both(void)
{
    struct zh_net_socket *listener = script_listen(8), *s[2];
    struct sockaddr_storage peer;
    char text[INET6_ADDRSTRLEN];
    SCRIPT("+0 < S 0:0(0) win 4000 <mss 1440>", "+0 > S. 0:0(0) ack 1 <mss 1440>",
           "+0.1 < . 1:1(0) ack 1 win 4000");
    s[0] = script_accept(listener);
    script_ipv6 = false;
    script_flow(1);
    SCRIPT("+0 < S 0:0(0) win 4000 <mss 1460>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < P. 1:101(100) ack 1 win 4000", "+0 > . 1:1(0) ack 101");
    s[1] = script_accept(listener);
    script_recv(s[1], 100);
    CHECK_EQ(zh_net_getpeername(s[1], &peer), 0);
    CHECK_EQ(peer.ss_family, AF_INET6);
    CHECK(strcmp(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&peer)->sin6_addr, text, sizeof text),
                 "::ffff:10.0.0.2") == 0);
    CHECK_EQ(script_info(s[1]).tcpi_snd_mss, 1460);
    script_abort(s[1]);
    script_ipv6 = true;
    script_flow(0);
    script_send(s[0], 1440);
    SCRIPT("+0 > P. 1:1441(1440) ack 1", "+0.1 < . 1:1(0) ack 1441 win 4000");
    script_abort(s[0]);
    zh_net_close(listener);
}

/* ECN and cookies are IPv6's too: the traffic class, and what the hash is over. */
static void ecn(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < SEW 0:0(0) win 4000 <mss 1440>", "+0 > [noecn] SE. 0:0(0) ack 1 <mss 1440>",
           "+0.1 < [ce] P. 1:101(100) ack 1 win 4000", "+0 > [noecn] E. 1:1(0) ack 101");
    s = script_accept(listener);
    zh_net_close(listener);
    script_recv(s, 100);
    script_send(s, 100);
    SCRIPT("+0 > [ect0] PE. 1:101(100) ack 101", "+0.1 < . 101:101(0) ack 101 win 4000");
    script_abort(s);
}

static void cookie(void)
{
    struct zh_net_socket *listener = script_listen(1), *s;
    script_flow(31);
    SCRIPT("+0 < S 0:0(0) win 4000 <mss 1440>", "+0 > S. 0:0(0) ack 1 <mss 1440>");
    script_flow(0);
    SCRIPT("+0 < S 0:0(0) win 4000", "+0 > S. 0:0(0) ack 1 <mss 1440>",
           "+0.1 < . 1:1(0) ack 1 win 4000");
    s = script_accept(listener);
    CHECK_EQ(script_net->stats.cookies_accepted, 1);
    CHECK_EQ(script_info(s).tcpi_snd_mss, 1220);
    zh_net_close(listener);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN_IPV6(passive);
    RUN_IPV6(passive_bare);
    RUN_IPV6(active);
    RUN_IPV6(refused);
    RUN_IPV6(both);
    RUN_IPV6(ecn);
    RUN_IPV6(cookie);
    return 0;
}
