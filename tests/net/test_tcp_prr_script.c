/* Proportional rate reduction (RFC 6937) in a connection: what each ACK of a recovery lets go.
 * NewReno: ssthresh is half of the ten segments that cwnd lets go (RFC 5681 equation 4). */
#include "net/tcp_conn.h"
#include "script.h"

static struct zh_net_socket *sends_ten(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    script_send(s, 30000);
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    return s;
}

/* One is lost. Three that arrive let three new ones go (RFC 3042's way), so 13000 are under way
 * when recovery begins: RecoverFS. */
static void proportional(void)
{
    struct zh_net_socket *s = sends_ten();
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 1001:2001>", "+0 > . 10001:11001(1000) ack 1",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:3001>", "+0 > . 11001:12001(1000) ack 1",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 1001:4001>", "+0 > . 12001:13001(1000) ack 1",
           /* The reordering window's least, 100 us; the first goes in any case (section 3). */
           "+0.0001 > . 1:1001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 5000);
    CHECK_EQ(s->prr.recover_fs, 13000);
    /* The pipe is 10000: CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out, which has been 1000;
     * so nothing for four ACKs, by the fifth the pipe is ssthresh. */
    for (unsigned i = 5; i < 10; i++) {
        uint64_t due = (i - 4) * UINT64_C(1000) * 5000 / 13000 + 1;
        SCRIPTF("+0.001 < . 1:1(0) ack 1 win 65535 <sack 1001:%u>", 1000 * i + 1);
        CHECK_EQ(s->prr.delivered, (i - 4) * 1000);
        if (i < 9)
            CHECK_EQ(s->cwnd, tcp_in_flight(s) + (due > 1000 ? due - 1000 : 0));
        else
            CHECK_EQ(s->cwnd, 5000);
    }
    /* Below it: as many as arrive, and no more than ssthresh. */
    SCRIPT("+0.001 < . 1:1(0) ack 1 win 65535 <sack 1001:10001>", "+0 > . 13001:14001(1000) ack 1",
           "+0.0939 < . 1:1(0) ack 1 win 65535 <sack 1001:13001>", "+0 > . 14001:15001(1000) ack 1",
           "+0 > . 15001:16001(1000) ack 1", "+0 > . 16001:17001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_ca_state, 3);
    /* It ends with ssthresh, and this ACK does not grow it. */
    SCRIPT("+0.0001 < . 1:1(0) ack 13001 win 65535", "+0 > . 17001:18001(1000) ack 1");
    CHECK_EQ(script_info(s).tcpi_ca_state, 0);
    CHECK_EQ(s->cwnd, 5000);
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 1);
    script_abort(s);
}

/* Eight of ten are lost: the pipe is below ssthresh, and each ACK lets one more go than has
 * arrived (the slow start reduction bound), until it is there again. */
static void slow_start(void)
{
    struct zh_net_socket *s = sends_ten();
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535 <sack 8001:10001>", "+0 > . 10001:11001(1000) ack 1",
           "+0 > . 11001:12001(1000) ack 1",
           /* two only: a quarter of the round trip (RFC 8985 section 6.2) */
           "+0.025 > . 1:1001(1000) ack 1", "+0.075 < . 1:1(0) ack 1 win 65535 <sack 8001:11001>",
           "+0 > . 1001:2001(1000) ack 1", "+0 > . 2001:3001(1000) ack 1",
           "+0 < . 1:1(0) ack 1 win 65535 <sack 8001:12001>", "+0 > . 3001:4001(1000) ack 1",
           "+0 > . 4001:5001(1000) ack 1", "+0.025 < . 1:1(0) ack 1001 win 65535 <sack 8001:12001>",
           "+0 > . 5001:6001(1000) ack 1", "+0.075 < . 1:1(0) ack 2001 win 65535 <sack 8001:12001>",
           "+0 > . 6001:7001(1000) ack 1", "+0 < . 1:1(0) ack 3001 win 65535 <sack 8001:12001>",
           "+0 > . 7001:8001(1000) ack 1", "+0 < . 1:1(0) ack 4001 win 65535 <sack 8001:12001>",
           "+0 > . 12001:13001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 5000);
    CHECK_EQ(script_net->stats.tcp_rto, 0);
    script_abort(s);
}

/* Without SACK each duplicate ACK counts as a segment that has arrived (section 3.1), and a partial
 * ACK as the retransmission (RFC 6582 section 3.2 step 3). */
static void without_sack(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 30000);
    for (unsigned i = 0; i < 10; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    /* The first and the third are lost; of the eight that arrive the last finds a pipe of less than
     * ssthresh. Limited transmit: RFC 3042. */
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 65535", "+0 > . 10001:11001(1000) ack 1",
           "+0 < . 1:1(0) ack 1 win 65535", "+0 > . 11001:12001(1000) ack 1",
           "+0 < . 1:1(0) ack 1 win 65535", "+0 > . 1:1001(1000) ack 1");
    CHECK_EQ(s->ssthresh, 5000);
    CHECK_EQ(s->cwnd, 9000); /* the pipe, 12000 - 3000 - 1000, and the first */
    for (unsigned i = 0; i < 4; i++)
        SCRIPT("+0 < . 1:1(0) ack 1 win 65535");
    SCRIPT("+0.001 < . 1:1(0) ack 1 win 65535", "+0 > . 12001:13001(1000) ack 1");
    SCRIPT("+0.1 < . 1:1(0) ack 2001 win 65535", "+0 > . 2001:3001(1000) ack 1",
           "+0 > . 13001:14001(1000) ack 1");
    CHECK_EQ(script_net->stats.tcp_fast_recovery, 1);
    CHECK_EQ(script_info(s).tcpi_ca_state, 3);
    script_abort(s);
}

/* Nothing is in flight when recovery ends, since all but the first has arrived meanwhile: not
 * ssthresh at once, but ten segments, and slow start from there (RFC 6582 section 3.2 step 3). */
static void no_burst(void)
{
    struct zh_net_socket *s = script_open_with(65535, "mss 1000,sackOK");
    s->cwnd = 40000; /* as if it had grown */
    script_send(s, 100000);
    for (unsigned i = 0; i < 40; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.1 < . 1:1(0) ack 1 win 40000 <sack 1001:40001>", "+0.0001 > . 1:1001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 40001 win 40000");
    CHECK_EQ(s->ssthresh, 20000);
    CHECK_EQ(s->cwnd, 10000);
    for (unsigned i = 40; i < 50; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    SCRIPT("+0.1 < . 1:1(0) ack 42001 win 40000");
    CHECK_EQ(s->cwnd, 12000);
    for (unsigned i = 50; i < 54; i++)
        SCRIPTF("+0 > . %u:%u(1000) ack 1", 1 + 1000 * i, 1001 + 1000 * i);
    script_abort(s);
}

int main(void)
{
    script_start();
    RUN(proportional);
    RUN(slow_start);
    RUN(without_sack);
    RUN(no_burst);
    return 0;
}
