/* Opening connections (RFC 9293 section 3.5): what SYNs carry, and how both sides' options become
 * the connection's. */
#include <string.h>

#include "script.h"

static void passive(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0.1 < S 0:0(0) win 32792 <mss 1460,sackOK,TS val 7 ecr 0,nop,wscale 7>",
           /* RFC 7323 section 2.2: a window scale answers one, the SYN's own window is not scaled;
            * section 3.2: TSecr is the SYN's TSval. MTU 1500 less 40 (RFC 9293 section 3.7.1). */
           "+0 > S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,TS val 100 ecr 7,wscale 7>");
    CHECK_STATE("SYN-RECEIVED");
    CHECK_EQ(zh_net_accept(listener, &s), -EAGAIN);
    SCRIPT("+0.05 < . 1:1(0) ack 1 win 257 <nop,nop,TS val 57 ecr 100>");
    CHECK_STATE("ESTABLISHED");
    s = script_accept(listener);
    struct tcp_info info = script_info(s);
    CHECK_EQ(info.tcpi_snd_wscale, 7);
    CHECK_EQ(info.tcpi_snd_mss, 1448); /* RFC 6691 section 2: less the timestamps' 12 bytes */
    CHECK_EQ(info.tcpi_rtt, 50000);    /* RFC 6298 (2.2): SRTT = R, RTTVAR = R/2 */
    CHECK_EQ(info.tcpi_rttvar, 25000);
    CHECK_EQ(info.tcpi_options, TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
    script_send(s, 100);
    SCRIPT("+0 > P. 1:101(100) ack 1 <TS val 150 ecr 57>",
           "+0.05 < . 1:1(0) ack 101 win 257 <nop,nop,TS val 107 ecr 150>", "+0.01");
    zh_net_close(listener);
    script_abort(s);
}

/* Without options in the SYN there is none in the answer but the MSS, and the peer's is 536 (RFC
 * 9293 section 3.7.1, MUST-15). */
static void passive_bare(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 4000", "+0 > S. 0:0(0) ack 1 win 65535 <mss 1460>",
           "+0.1 < . 1:1(0) ack 1 win 4000");
    s = script_accept(listener);
    zh_net_close(listener);
    script_send(s, 600);
    /* RFC 9293 section 3.9.1.2: the last byte of a send is pushed. Nagle (section 3.7.4) keeps the
     * rest until there is nothing unacknowledged. */
    SCRIPT("+0 > . 1:537(536) ack 1", "+0.1 < . 1:1(0) ack 537 win 4000",
           "+0 > P. 537:601(64) ack 1", "+0.1 < . 1:1(0) ack 601 win 4000");
    script_abort(s);
}

/* The last ACK of the handshake may carry data, and a FIN (RFC 9293 section 3.10.7.4, fifth: from
 * SYN-RECEIVED the processing goes on in ESTABLISHED). */
static void passive_with_data(void)
{
    struct zh_net_socket *listener = script_listen(8), *s;
    SCRIPT("+0 < S 0:0(0) win 4000 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0.1 < FP. 1:501(500) ack 1 win 4000", "+0 > . 1:1(0) ack 502");
    CHECK_STATE("CLOSE-WAIT");
    s = script_accept(listener);
    zh_net_close(listener);
    script_recv(s, 500);
    script_recv(s, 0);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 502", "+0.1 < . 502:502(0) ack 2 win 4000");
}

static void active(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) win 65535 <mss 1460,sackOK,TS val 100 ecr 0,wscale 7>");
    CHECK_STATE("SYN-SENT");
    CHECK_EQ(zh_net_ready(s), 0);
    SCRIPT("+0.08 < S. 0:0(0) ack 1 win 5792 <mss 1400,sackOK,TS val 700 ecr 100,nop,wscale 2>",
           "+0 > . 1:1(0) ack 1 <TS val 180 ecr 700>");
    CHECK_STATE("ESTABLISHED");
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_OUT);
    struct tcp_info info = script_info(s);
    CHECK_EQ(info.tcpi_snd_mss, 1388);
    CHECK_EQ(info.tcpi_snd_wscale, 2);
    CHECK_EQ(info.tcpi_rtt, 80000);
    CHECK_EQ(info.tcpi_snd_cwnd, 10); /* RFC 6928 section 2 */
    script_abort(s);
}

/* A peer that answers none of the options: none is used from then on. */
static void active_bare(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <mss 1460,sackOK,TS val 100 ecr 0,wscale 7>",
           "+0.08 < S. 0:0(0) ack 1 win 5792", "+0 > . 1:1(0) ack 1 win 65535");
    script_send(s, 600);
    SCRIPT("+0 > . 1:537(536) ack 1", "+0.08 < . 1:1(0) ack 537 win 5792",
           "+0 > P. 537:601(64) ack 1", "+0.08 < . 1:1(0) ack 601 win 5792");
    script_abort(s);
}

/* A shift over 14 is taken for 14 (RFC 7323 section 2.3). */
static void shift_too_large(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.08 < S. 0:0(0) ack 1 win 5792 <mss 1000,nop,wscale 15>",
           "+0 > . 1:1(0) ack 1");
    CHECK_EQ(script_info(s).tcpi_snd_wscale, 14);
    script_abort(s);
}

/* RFC 9293 section 3.10.7.3, first: an ACK of nothing that was sent is answered by a reset, and
 * does not change the state; with RST it is dropped. */
static void active_bad_ack(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < S. 0:0(0) ack 0 win 5792 <mss 1000>",
           "+0 > R 0:0(0) win 0", "+0.1 < S. 0:0(0) ack 2 win 5792 <mss 1000>",
           "+0 > R 2:2(0) win 0", "+0 < R. 0:0(0) ack 2 win 0", "+0.1 < . 1:1(0) ack 300 win 100",
           "+0 > R 300:300(0)");
    CHECK_STATE("SYN-SENT");
    /* Second: without an ACK a reset cannot be meant for this SYN; with one, it ends the
     * connection.
     */
    SCRIPT("+0 < R 0:0(0) win 0");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+0 < R. 0:0(0) ack 1 win 0");
    CHECK(zh_net_ready(s) & ZH_STREAM_ERR);
    script_socket_error(s, ECONNREFUSED);
    zh_net_close(s);
}

/* No SYN and no RST: dropped (RFC 9293 section 3.10.7.3, fifth). */
static void active_no_syn(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>", "+0.1 < . 1:1(0) ack 1 win 5792", "+0.1");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+0 < S. 0:0(0) ack 1 win 5792 <mss 1000>", "+0 > . 1:1(0) ack 1");
    script_abort(s);
}

/* RFC 6528: the same ports later have a later sequence number, M ticks every 4 us. */
static void isn_grows(void)
{
    struct zh_net_socket *listener = script_listen(8);
    uint32_t first;
    SCRIPT("+0 < S 0:0(0) win 100 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0 < R 1:1(0) win 0");
    first = script_iss();
    script_forget();
    SCRIPT("+1 < S 0:0(0) win 100 <mss 1000>", "+0 > S. 0:0(0) ack 1 <mss 1460>",
           "+0 < R 1:1(0) win 0");
    CHECK_EQ(script_iss() - first, 250000);
    zh_net_close(listener);
}

/* Data on a SYN-ACK (RFC 9293 section 3.10.7.3, fourth: "other controls or text"). */
static void active_data_on_syn_ack(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > S 0:0(0) <...>");
    CHECK_STATE("SYN-SENT");
    SCRIPT("+0.1 < S. 0:0(0) ack 1 win 5792 <mss 1000>", "+0 > . 1:1(0) ack 1",
           "+0 < P. 1:101(100) ack 1 win 5792", "+0 > . 1:1(0) ack 101");
    script_recv(s, 100);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(passive);
    RUN(passive_bare);
    RUN(passive_with_data);
    RUN(active);
    RUN(active_bare);
    RUN(shift_too_large);
    RUN(active_bad_ack);
    RUN(active_no_syn);
    RUN(isn_grows);
    RUN(active_data_on_syn_ack);
    return 0;
}
