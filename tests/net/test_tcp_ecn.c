/* Explicit congestion notification (RFC 3168): who agrees to it, what is marked, and what a mark
 * does at either end. */
#include "script.h"

/* A connection with ECN, its window of 10 segments (RFC 6928) of 1000 bytes. */
static struct zh_net_socket *open_ecn(const char *options)
{
    struct zh_net_socket *listener = script_listen(1);
    SCRIPTF("+0 < SEW 0:0(0) win 65535 <mss 1000%s>", options);
    /* Section 6.1.1: an ECN-setup SYN-ACK has ECE and not CWR, and is not ECN-capable itself. */
    SCRIPTF("+0 > [noecn] SE. 0:0(0) ack 1 <mss 1460%s>", options);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535");
    struct zh_net_socket *s = script_accept(listener);
    CHECK_EQ(script_info(s).tcpi_options & TCPI_OPT_ECN, TCPI_OPT_ECN);
    zh_net_close(listener);
    SCRIPT("+0");
    return s;
}

static unsigned cwnd(struct zh_net_socket *s)
{
    return script_info(s).tcpi_snd_cwnd;
}

/* --- agreement -----------------------------------------------------------------------------------
 */

/* Section 6.1.1: asked for by ECE and CWR both, and by them alone. */
static void passive(void)
{
    static const struct {
        const char *syn, *answer;
    } cases[] = {{"SEW", "SE."}, {"S", "S."},          {"SE", "S."},
                 {"SW", "S."},   {"[ect0] SEW", "S."}, {"[ce] SEW", "S."}};
    struct zh_net_socket *listener = script_listen(8);
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        script_forget();
        SCRIPTF("+0 < %s 0:0(0) win 1000 <mss 1000>", cases[i].syn);
        SCRIPTF("+0 > [noecn] %s 0:0(0) ack 1 <mss 1460>", cases[i].answer);
        SCRIPT("+0.1 < . 1:1(0) ack 1 win 1000");
        struct zh_net_socket *s = script_accept(listener);
        CHECK_EQ(script_info(s).tcpi_options, i ? 0 : TCPI_OPT_ECN);
        script_abort(s);
    }
    /* The answer once more is the same. */
    script_forget();
    SCRIPT("+0 < SEW 0:0(0) win 1000 <mss 1000>", "+0 > SE. 0:0(0) ack 1 <mss 1460>",
           "+1 > [noecn] SE. 0:0(0) ack 1 <mss 1460>", "+0 < R 1:1(0) win 0");
    zh_net_close(listener);
}

/* connect asks where it is told to, and takes ECE without CWR for yes. */
static void active(void)
{
    static const char *const answers[] = {"SE.", "S.", "SEW.", "SW."};
    for (unsigned i = 0; i < 4; i++) {
        script_forget();
        struct zh_net_socket *s = script_connect();
        SCRIPT("+0 > [noecn] SEW 0:0(0) <...>");
        SCRIPTF("+0.1 < %s 0:0(0) ack 1 win 5792 <mss 1000>", answers[i]);
        SCRIPT("+0 > [noecn] . 1:1(0) ack 1");
        CHECK_EQ(script_info(s).tcpi_options, i ? 0 : TCPI_OPT_ECN);
        script_send(s, 100);
        SCRIPTF("+0 > %s P. 1:101(100) ack 1", i ? "[noecn]" : "[ect0]");
        script_abort(s);
    }
}

/* By default it does not ask; an answer to what was not asked is none. */
static void active_without(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > [noecn] S 0:0(0) <...>", "+0.1 < SE. 0:0(0) ack 1 win 5792 <mss 1000>",
           "+0 > . 1:1(0) ack 1");
    CHECK_EQ(script_info(s).tcpi_options, 0);
    script_send(s, 100);
    SCRIPT("+0 > [noecn] P. 1:101(100) ack 1");
    script_abort(s);
}

/* Section 6.1.1.1: a SYN that is not answered goes again without the question; whatever the answer
 * then is, who has sent such a SYN must not send ECT (section 6.1.1). */
static void active_unanswered(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > SEW 0:0(0) <...>", "+1 > S 0:0(0) <...>",
           "+0.1 < SE. 0:0(0) ack 1 win 5792 <mss 1000>", "+0 > . 1:1(0) ack 1");
    CHECK_EQ(script_info(s).tcpi_options, 0);
    script_send(s, 100);
    SCRIPT("+0 > [noecn] P. 1:101(100) ack 1");
    script_abort(s);
}

/* Both have asked: both answer. */
static void simultaneous(void)
{
    struct zh_net_socket *s = script_connect();
    SCRIPT("+0 > SEW 0:0(0) <...>", "+0.1 < SEW 0:0(0) win 5792 <mss 1000>",
           "+0 > SE. 0:0(0) ack 1 <...>", "+0.1 < SE. 0:0(0) ack 1 win 5792 <mss 1000>");
    CHECK_EQ(script_info(s).tcpi_options, TCPI_OPT_ECN);
    script_send(s, 100);
    SCRIPT("* > [ect0] P. 1:101(100) ack 1");
    script_abort(s);
}

/* --- what is marked ------------------------------------------------------------------------------
 */

/* New data only: not ACKs (section 6.1.4), retransmissions (6.1.5), a FIN or a window probe
 * (6.1.6). */
static void capable(void)
{
    struct zh_net_socket *s = open_ecn("");
    script_send(s, 1500);
    SCRIPT("+0 > [ect0] . 1:1001(1000) ack 1", "+0 < P. 1:101(100) ack 1 win 65535",
           "+0 > [noecn] . 1001:1001(0) ack 101", "+0.1 < . 101:101(0) ack 1001 win 65535",
           "+0 > [ect0] P. 1001:1501(500) ack 101");
    script_recv(s, 100);
    /* A timeout: RFC 6298 (2.3), SRTT 100 ms, RTO = SRTT + 200 ms. */
    SCRIPT("+0.3 > [noecn] P. 1001:1501(500) ack 101", "+0.1 < . 101:101(0) ack 1501 win 0");
    script_send(s, 1000);
    SCRIPT("* > [noecn] . 1500:1500(0) ack 101", /* the probe is an old sequence number */
           "+0.1 < . 101:101(0) ack 1501 win 65535",
           "+0 > [ect0] PW. 1501:2501(1000) ack 101", /* the timeout has reduced the window */
           "+0.1 < . 101:101(0) ack 2501 win 65535");
    zh_net_close(s);
    SCRIPT("+0 > [noecn] F. 2501:2501(0) ack 101", "+0.1 < F. 101:101(0) ack 2502 win 65535",
           "+0 > [noecn] . 2502:2502(0) ack 102");
}

/* --- the receiver --------------------------------------------------------------------------------
 */

/* Section 6.1.3: from a mark on every ACK has ECE, until a segment has CWR; the ACK of a mark is
 * not delayed. */
static void echo(void)
{
    struct zh_net_socket *s = open_ecn("");
    /* The first ACKs of a connection are not delayed anyway. */
    int off = 0;
    CHECK_EQ(zh_net_setsockopt(s, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off), 0);
    SCRIPT("+0 < [ect0] P. 1:101(100) ack 1 win 65535", "+0.04 > . 1:1(0) ack 101");
    SCRIPT("+0 < [ce] P. 101:201(100) ack 1 win 65535", "+0 > [noecn] E. 1:1(0) ack 201",
           "+0.01 < [ect0] P. 201:301(100) ack 1 win 65535", "+0.04 > E. 1:1(0) ack 301",
           /* Our data carries it too. */
           "+0.01");
    script_send(s, 100);
    SCRIPT("+0 > [ect0] PE. 1:101(100) ack 301", "+0.01 < . 301:301(0) ack 101 win 65535",
           /* CWR ends it, for the segment itself already. */
           "+0 < [ect0] PW. 301:401(100) ack 101 win 65535", "+0.04 > . 101:101(0) ack 401",
           /* But a mark on that segment begins it anew. */
           "+0 < [ce] P. 401:501(100) ack 101 win 65535", "+0 > E. 101:101(0) ack 501",
           "+0 < [ce] PW. 501:601(100) ack 101 win 65535", "+0 > E. 101:101(0) ack 601",
           "+0 < [ect1] PW. 601:701(100) ack 101 win 65535", "+0.04 > . 101:101(0) ack 701");
    CHECK_EQ(script_net->stats.tcp_ecn_marked, 3);
    CHECK(script_info(s).tcpi_options & TCPI_OPT_ECN_SEEN);
    script_recv(s, 700);
    script_abort(s);
}

/* A mark and a CWR that answers an earlier one, in one burst: the mark is not lost with it. */
static void echo_burst(void)
{
    struct zh_net_socket *s = open_ecn("");
    SCRIPT("+0 < [ce] P. 1:101(100) ack 1 win 65535",
           "+0 < [ect0] PW. 101:201(100) ack 1 win 65535", "+0 > E. 1:1(0) ack 101",
           "+0 > . 1:1(0) ack 201");
    script_recv(s, 200);
    script_abort(s);
}

/* Section 6.1.5: a mark on a segment out of the window is none; nor is it without agreement, or on
 * what has no data. */
static void not_echoed(void)
{
    struct zh_net_socket *s = open_ecn("");
    SCRIPT("+0 < [ce] P. 100001:100101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 1",
           "+0 < [ce] . 1:1(0) ack 1 win 65535", "+0.1", "+0 < P. 1:101(100) ack 1 win 65535",
           "+0 > . 1:1(0) ack 101");
    CHECK_EQ(script_net->stats.tcp_ecn_marked, 0);
    script_recv(s, 100);
    script_abort(s);
    script_forget();
    s = script_open(65535);
    SCRIPT("+0 < [ce] P. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 101");
    script_recv(s, 100);
    script_abort(s);
}

/* --- the sender ----------------------------------------------------------------------------------
 */

static void expect_burst(unsigned first, unsigned count, const char *flags, bool last)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned start = 1 + (first + i) * 1000;
        SCRIPTF("+0 > [ect0] %s. %u:%u(1000) ack 1", i ? last && i == count - 1 ? "P" : "" : flags,
                start, start + 1000);
    }
}

/* Section 6.1.2: ECE is taken as a loss is (RFC 5681 equation 4: half of what is in flight), once
 * for each window of data; the next new data says so by CWR. */
static void reduce(void)
{
    struct zh_net_socket *s = open_ecn("");
    script_send(s, 40000);
    expect_burst(0, 10, "", false);
    SCRIPT("+0.1 < E. 1:1(0) ack 1001 win 65535"); /* 9 in flight */
    SCRIPT("+0");
    CHECK_EQ(script_info(s).tcpi_snd_ssthresh, 4); /* 4.5 */
    CHECK_EQ(s->cwnd, 4500);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 1);
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 0);
    CHECK_EQ(script_net->stats.tcp_out_retransmitted, 0);
    /* The rest of the window: its ACKs still have ECE, and neither reduce nor let grow. */
    SCRIPT("+0 < E. 1:1(0) ack 6001 win 65535", "+0.01", "+0 < E. 1:1(0) ack 7001 win 65535",
           "+0 > [ect0] W. 10001:11001(1000) ack 1", "+0 < E. 1:1(0) ack 10001 win 65535",
           "+0 > [ect0] . 11001:12001(1000) ack 1", "+0 > [ect0] . 12001:13001(1000) ack 1",
           "+0 > [ect0] . 13001:14001(1000) ack 1");
    CHECK_EQ(s->cwnd, 4500);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 1);
    /* The ACK of the CWR: without ECE, the window grows again (by bytes: 1000 of 4500). */
    SCRIPT("+0.1 < . 1:1(0) ack 11001 win 65535", "+0 > [ect0] . 14001:15001(1000) ack 1");
    CHECK_EQ(s->cwnd, 4500);
    /* With it, it is news. */
    SCRIPT("+0 < E. 1:1(0) ack 12001 win 65535", "+0.01"); /* 3 in flight: at least 2 */
    CHECK_EQ(s->cwnd, 2000);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 2);
    SCRIPT("+0 < E. 1:1(0) ack 14001 win 65535", "+0 > [ect0] W. 15001:16001(1000) ack 1");
    script_abort(s);
}

/* ECE with nothing under way is about what is past. */
static void reduce_idle(void)
{
    struct zh_net_socket *s = open_ecn("");
    SCRIPT("+0 < PE. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 101");
    CHECK_EQ(cwnd(s), 10);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 0);
    script_recv(s, 100);
    script_abort(s);
}

/* A loss in a window that ECE has reduced does not reduce it once more (section 6.1.2); it is
 * repaired all the same, and the next new data has CWR. */
static void reduce_then_loss(void)
{
    struct zh_net_socket *s = open_ecn("");
    script_send(s, 20000);
    expect_burst(0, 10, "", false);
    SCRIPT("+0.1 < E. 1:1(0) ack 1001 win 65535", "+0 < E. 1:1(0) ack 1001 win 65535",
           "+0 < E. 1:1(0) ack 1001 win 65535", "+0 < E. 1:1(0) ack 1001 win 65535",
           "+0 > [noecn] . 1001:2001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 4500);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 1);
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 1);
    SCRIPT("+0.1 < E. 1:1(0) ack 10001 win 65535");
    expect_burst(10, 4, "W", false);
    CHECK_EQ(s->cwnd, 4500);
    CHECK_EQ(script_net->stats.tcp_ecn_reduced, 1);
    script_abort(s);
}

/* A reduction for a loss that was none is undone (RFC 4015), but not if the peer echoes a mark. */
static void undo(bool marked)
{
    struct zh_net_socket *listener = script_listen(1);
    SCRIPT("+0 < SEW 0:0(0) win 65535 <mss 1012,sackOK,TS val 1000 ecr 0>",
           "+0 > SE. 0:0(0) ack 1 <mss 1460,sackOK,TS val 100 ecr 1000>",
           "+0.1 < . 1:1(0) ack 1 win 65535 <nop,nop,TS val 1100 ecr 100>");
    struct zh_net_socket *s = script_accept(listener);
    zh_net_close(listener);
    script_send(s, 10000);
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > [ect0] %s. %u:%u(1000) ack 1 <...>", i == 9 ? "P" : "", 1 + i * 1000,
                1001 + i * 1000);
    /* RACK (RFC 8985 section 6.2): more than three segments above: no waiting for reordering. */
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <nop,nop,TS val 1200 ecr 200,nop,nop,sack 1001:6001>",
           "+0~+0.1 > [noecn] . 1:1001(1000) ack 1 <...>");
    CHECK_EQ(s->ssthresh, 5000);
    /* The first transmission arrives: TSecr is older than the retransmission's stamp. */
    SCRIPTF("+0.001 < %s. 1:1(0) ack 10001 win 65535 <nop,nop,TS val 1201 ecr 200>",
            marked ? "E" : "");
    SCRIPT("+0");
    CHECK_EQ(script_net->stats.tcp_undo, 1);
    CHECK_EQ(s->ssthresh, marked ? 5000 : UINT64_MAX);
    script_abort(s);
}

static void undo_without_mark(void)
{
    undo(false);
}

static void no_undo_with_mark(void)
{
    undo(true);
}

int main(void)
{
    script_start();
    RUN(passive);
    RUN_WITH(active, .ecn = true);
    RUN(active_without);
    RUN_WITH(active_unanswered, .ecn = true);
    RUN_WITH(simultaneous, .ecn = true);
    RUN(capable);
    RUN(echo);
    RUN(echo_burst);
    RUN(not_echoed);
    RUN(reduce);
    RUN(reduce_idle);
    RUN(reduce_then_loss);
    RUN(undo_without_mark);
    RUN(no_undo_with_mark);
    return 0;
}
