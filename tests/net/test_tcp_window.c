/* Windows (RFC 9293 sections 3.8.6 to 3.8.6.2.2): zero windows and their probes, silly windows on
 * both sides, scaling. RTT 100 ms: RTO = SRTT + 4 * RTTVAR = 300 ms (RFC 6298 (2.2)). */
#include "script.h"

/* Section 3.8.6.1: a closed window is probed, the first time when it has been closed for the RTO
 * (SHLD-29), then at exponentially growing intervals (SHLD-30). The probe is an old sequence
 * number, which has to be answered. */
static void zero_window(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 3000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0",
           "+0.3 > . 1000:1000(0) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0",
           "+0.5 > . 1000:1000(0) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0",
           "+1.1 > . 1000:1000(0) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0",
           /* it opens: at once */
           "+0.2 < . 1:1(0) ack 1001 win 5000", "+0 > . 1001:2001(1000) ack 1",
           "+0 > P. 2001:3001(1000) ack 1", "+0.1 < . 1:1(0) ack 3001 win 5000", "+5");
    script_abort(s);
}

/* MUST-36, MUST-37: as long as the peer answers probes the connection stays open. Here for more
 * than as many probes as retransmissions would be made (15), the interval growing up to 120 s. */
static void zero_window_stays(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 2000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0",
           "+0.3 > . 1000:1000(0) ack 1");
    double wait = 0.3;
    for (int i = 0; i < 25; i++) {
        wait = wait * 2 > 120 ? 120 : wait * 2;
        SCRIPT("+0.1 < . 1:1(0) ack 1001 win 0");
        SCRIPTF("+%.9f > . 1000:1000(0) ack 1", wait - 0.1);
    }
    SCRIPT("+0.1 < . 1:1(0) ack 1001 win 1000", "+0 > P. 1001:2001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 2001 win 1000");
    script_abort(s);
}

/* Probes that nobody answers end it as retransmissions do: 15 of them (as Linux's tcp_retries2). */
static void zero_window_dead(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 2000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0");
    double wait = 0.3;
    for (int i = 0; i < 15; i++) {
        SCRIPTF("+%.9f > . 1000:1000(0) ack 1", wait);
        wait = wait * 2 > 120 ? 120 : wait * 2;
    }
    SCRIPTF("+%.9f", wait - 0.001);
    CHECK_STATE("ESTABLISHED");
    SCRIPT("+0.002");
    script_socket_error(s, ETIMEDOUT);
    zh_net_close(s);
}

/* The FIN waits for the window too, and a window that is not zero but closed by what is under way
 * is not probed. */
static void zero_window_fin(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.1 < . 1:1(0) ack 1001 win 0");
    zh_net_close(s);
    /* A FIN without data takes no room in the buffer: it goes (as Linux sends it). */
    SCRIPT("+0 > F. 1001:1001(0) ack 1", "+0.1 < F. 1:1(0) ack 1002 win 0",
           "+0 > . 1002:1002(0) ack 2");
}

/* Section 3.8.6.2.1: less than a segment goes only when it is at least half of the largest window
 * that the peer has ever offered, or when the timer overrides (0.1 to 1 s; here the RTO). */
static void silly_sender(void)
{
    struct zh_net_socket *s = script_open(4000);
    script_send(s, 5000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > . 2001:3001(1000) ack 1", "+0 > . 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 4001 win 500", "+0.3 > . 4001:4501(500) ack 1",
           "+0.1 < . 1:1(0) ack 4501 win 4000", "+0 > P. 4501:5001(500) ack 1",
           "+0.1 < . 1:1(0) ack 5001 win 4000");
    script_abort(s);
}

static void small_window(void)
{
    struct zh_net_socket *s = script_open(800); /* never room for a segment: half of it will do */
    script_send(s, 2000);
    SCRIPT("+0 > . 1:801(800) ack 1", "+0.1 < . 1:1(0) ack 801 win 400",
           "+0 > . 801:1201(400) ack 1", "+0.1 < . 1:1(0) ack 1201 win 800",
           "+0 > P. 1201:2001(800) ack 1", "+0.1 < . 1:1(0) ack 2001 win 800");
    script_abort(s);
}

/* Section 3.8.6: a peer should not take back what it has offered; where it does, what is under way
 * stays to be acknowledged and retransmitted, and nothing new goes. */
static void shrinks(void)
{
    struct zh_net_socket *s = script_open(4000);
    script_send(s, 5000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0 > . 2001:3001(1000) ack 1", "+0 > . 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 1001 win 1000", "+0.1 < . 1:1(0) ack 4001 win 1000",
           "+0 > P. 4001:5001(1000) ack 1", "+0.1 < . 1:1(0) ack 5001 win 1000");
    script_abort(s);
}

/* SND.WL1 and SND.WL2 (section 3.10.7.4, fifth): an old segment does not change the window. */
static void old_update(void)
{
    struct zh_net_socket *s = script_open(4000);
    script_send(s, 1000);
    SCRIPT("+0 > P. 1:1001(1000) ack 1", "+0.1 < P. 1:101(100) ack 1001 win 2000",
           "+0 > . 1001:1001(0) ack 101");
    script_recv(s, 100);
    /* seq before SND.WL1, sent before it: its window is history. It is out of the receive window,
     * and so acknowledged. */
    SCRIPT("+0 < . 1:1(0) ack 1001 win 9000", "+0 > . 1001:1001(0) ack 101");
    script_send(s, 3000);
    SCRIPT("+0 > . 1001:2001(1000) ack 101", "+0 > . 2001:3001(1000) ack 101",
           "+0.1 < . 101:101(0) ack 3001 win 2000", "+0 > P. 3001:4001(1000) ack 101",
           "+0.1 < . 101:101(0) ack 4001 win 2000");
    script_abort(s);
}

/* RFC 7323 section 2.3: windows after the SYN are shifted, the SYN's own is not. */
static void scaled(void)
{
    struct zh_net_socket *listener = script_listen(1), *s;
    SCRIPT("+0 < S 0:0(0) win 1000 <mss 1000,nop,wscale 3>", "+0 > S. 0:0(0) ack 1 <...>",
           "+0.1 < . 1:1(0) ack 1 win 250");
    s = script_accept(listener);
    zh_net_close(listener);
    script_send(s, 4000);
    SCRIPT("+0 > . 1:1001(1000) ack 1", "+0 > . 1001:2001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 2001 win 125", "+0 > . 2001:3001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 3001 win 250", "+0 > P. 3001:4001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 4001 win 250");
    script_abort(s);
}

/* --- our own window
 * ------------------------------------------------------------------------------- */

/* It closes as data is not read, and is never taken back (section 3.8.6). A closed window opens, by
 * an ACK of its own, when there is room for a segment or half the buffer (section 3.8.6.2.2). The
 * peer's probe, a byte beyond it, is answered and not kept. */
static void our_window(void)
{
    struct zh_net_socket *s = script_open(65535);
    uint32_t got = 0, edge = 0;
    /* Fill it, 1000 bytes at a time, as the window allows. */
    for (unsigned round = 0; round < 200; round++) {
        uint32_t window = s->rcv_advertised - s->rcv_nxt;
        CHECK((int32_t)(s->rcv_advertised - edge) >= 0 || !edge);
        edge = s->rcv_advertised;
        if (window < 1000)
            break;
        SCRIPTF("+0.1 < P. %u:%u(1000) ack 1 win 65535", got + 1, got + 1001);
        got += 1000;
        SCRIPTF("+0~+0.04 > . 1:1(0) ack %u", got + 1);
    }
    CHECK(got >= 5000 && got < 64000);
    uint32_t window = s->rcv_advertised - s->rcv_nxt;
    if (window) {
        SCRIPTF("+0.1 < P. %u:%u(%u) ack 1 win 65535", got + 1, got + window + 1, window);
        got += window;
        SCRIPTF("+0~+0.04 > . 1:1(0) ack %u win 0", got + 1);
    }
    SCRIPTF("+0.3 < . %u:%u(1) ack 1 win 65535", got + 1, got + 2);
    SCRIPTF("+0 > . 1:1(0) ack %u win 0", got + 1);
    script_recv(s, 100); /* a silly window is not offered */
    SCRIPT("+0.1");
    script_recv(s, got - 100);
    SCRIPTF("+0 > . 1:1(0) ack %u", got + 1);
    CHECK(s->rcv_advertised - s->rcv_nxt >= 5000);
    SCRIPTF("+0.3 < P. %u:%u(1) ack 1 win 65535", got + 1, got + 2);
    SCRIPTF("+0~+0.04 > . 1:1(0) ack %u", got + 2);
    script_recv(s, 1);
    script_abort(s);
}

/* What lies beyond the window is not kept (section 3.10.7.4, first). */
static void beyond_our_window(void)
{
    struct zh_net_socket *s = script_open(65535);
    uint32_t window = s->rcv_advertised - s->rcv_nxt;
    SCRIPTF("+0 < P. %u:%u(100) ack 1 win 65535", window + 1, window + 101);
    SCRIPT("+0 > . 1:1(0) ack 1");
    CHECK_EQ(s->reorder.count, 0);
    /* Across the edge: the part within is. */
    SCRIPTF("+0 < P. %u:%u(100) ack 1 win 65535", window - 49, window + 51);
    SCRIPT("+0 > . 1:1(0) ack 1");
    CHECK_EQ(s->reorder.count, 1);
    CHECK_EQ(s->reorder.runs[0].end - s->reorder.runs[0].start, 50);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(zero_window);
    RUN(zero_window_stays);
    RUN(zero_window_dead);
    RUN(zero_window_fin);
    RUN(silly_sender);
    RUN(small_window);
    RUN(shrinks);
    RUN(old_update);
    RUN(scaled);
    RUN_WITH(our_window, .receive_budget = 65536);
    RUN_WITH(beyond_our_window, .receive_budget = 65536);
    return 0;
}
