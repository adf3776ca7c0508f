/* Proportional rate reduction: the examples of RFC 6937 section 3.1, and its bounds. */
#include "check.h"
#include "net/tcp_prr.h"

enum { MSS = 1000 };

/* One ACK for each segment that is under way; sends what is allowed, in whole segments. Returns
 * what was sent, and keeps the pipe. */
static uint32_t step(struct tcp_prr *prr, uint32_t delivered, uint32_t *pipe, uint32_t ssthresh)
{
    uint32_t sent = tcp_prr_ack(prr, delivered, *pipe, ssthresh, MSS) / MSS * MSS;
    tcp_prr_sent(prr, sent);
    *pipe += sent;
    return sent;
}

/* Figure "RFC 6675 and PRR" of section 3.1: cwnd 20, the first segment of 20 lost, ssthresh 10: one
 * sent for every two ACKs, until the pipe is ssthresh. */
static void test_one_lost(void)
{
    struct tcp_prr prr;
    uint32_t pipe = 20 * MSS, sent = 0;
    tcp_prr_begin(&prr, 20 * MSS);
    pipe -= MSS;     /* the lost one */
    pipe -= 2 * MSS; /* two duplicate ACKs before recovery */
    for (int ack = 3; ack < 20; ack++) {
        pipe -= MSS;
        sent += step(&prr, ack == 3 ? 3 * MSS : MSS, &pipe, 10 * MSS);
        /* Half of what was delivered, in whole segments, while the pipe is larger than ssthresh. */
        if (ack < 16)
            CHECK_EQ(sent / MSS, ack / 2);
    }
    CHECK_EQ(pipe, 10 * MSS);
}

/* The second figure: 15 of 20 lost, five ACKs come: slow start from a pipe below ssthresh, at most
 * one more than was delivered. */
static void test_many_lost(void)
{
    struct tcp_prr prr;
    uint32_t pipe = 5 * MSS;
    tcp_prr_begin(&prr, 20 * MSS);
    for (int ack = 0; ack < 5; ack++) {
        uint32_t before = pipe;
        pipe -= MSS;
        uint32_t sent = step(&prr, MSS, &pipe, 10 * MSS);
        CHECK_EQ(sent, 2 * MSS);
        CHECK_EQ(pipe, before + MSS);
    }
    CHECK_EQ(pipe, 10 * MSS);
}

static void test_bounds(void)
{
    struct tcp_prr prr;
    /* An ACK for everything: no burst beyond what was delivered and one. */
    tcp_prr_begin(&prr, 100 * MSS);
    CHECK_EQ(tcp_prr_ack(&prr, 3 * MSS, 0, 50 * MSS, MSS), 4 * MSS);
    /* Nor beyond ssthresh. */
    CHECK_EQ(tcp_prr_ack(&prr, 90 * MSS, 45 * MSS, 50 * MSS, MSS), 5 * MSS);
    /* More sent than is due: nothing. */
    tcp_prr_begin(&prr, 100 * MSS);
    tcp_prr_sent(&prr, 10 * MSS);
    CHECK_EQ(tcp_prr_ack(&prr, 2 * MSS, 90 * MSS, 50 * MSS, MSS), 0);
    CHECK_EQ(tcp_prr_ack(&prr, 2 * MSS, 50 * MSS, 50 * MSS, MSS), 0);
    CHECK_EQ(tcp_prr_ack(&prr, 2 * MSS, 49 * MSS, 50 * MSS, MSS), MSS);
    /* At ssthresh: what is sent keeps it there. */
    tcp_prr_begin(&prr, 100 * MSS);
    CHECK_EQ(tcp_prr_ack(&prr, 20 * MSS, 50 * MSS, 50 * MSS, MSS), 0);
    /* Below it: what was delivered and not sent, and one. */
    tcp_prr_sent(&prr, 15 * MSS);
    CHECK_EQ(tcp_prr_ack(&prr, MSS, 10 * MSS, 50 * MSS, MSS), 7 * MSS);
    /* Large windows do not overflow. */
    tcp_prr_begin(&prr, UINT32_C(1) << 30);
    CHECK_EQ(tcp_prr_ack(&prr, UINT32_C(1) << 29, UINT32_C(3) << 28, UINT32_C(1) << 29, MSS),
             UINT32_C(1) << 28);
    tcp_prr_begin(&prr, 0);
    CHECK_EQ(tcp_prr_ack(&prr, 0, 20 * MSS, 10 * MSS, MSS), 0);
}

int main(void)
{
    test_one_lost();
    test_many_lost();
    test_bounds();
    return 0;
}
