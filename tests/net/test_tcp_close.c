/* The end of connections: every way through figure 5 of RFC 9293 (section 3.3.2), and what section
 * 3.6.1 says of data that nobody reads. TIME-WAIT lasts 60 s (2 MSL of 30 s). */
#include "script.h"

/* ESTABLISHED, FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT (figure 12). */
static void we_close(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1");
    CHECK_STATE("FIN-WAIT-1");
    SCRIPT("+0.1 < . 1:1(0) ack 2 win 65535");
    CHECK_STATE("FIN-WAIT-2");
    SCRIPT("+1 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2");
    CHECK_STATE("TIME-WAIT");
    SCRIPT("+59.999");
    CHECK_STATE("TIME-WAIT");
    SCRIPT("+0.002");
    CHECK(script_state() == NULL);
}

/* The peer's FIN acknowledges ours: FIN-WAIT-1, TIME-WAIT. */
static void fin_with_ack(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2");
    CHECK_STATE("TIME-WAIT");
}

/* ESTABLISHED, CLOSE-WAIT, LAST-ACK. */
static void peer_closes(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < F. 1:1(0) ack 1 win 65535", "+0 > . 1:1(0) ack 2");
    CHECK_STATE("CLOSE-WAIT");
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_IN | ZH_STREAM_OUT);
    script_recv(s, 0);
    script_send(s, 100); /* half closed: this way is open */
    SCRIPT("+0 > P. 1:101(100) ack 2", "+0.1 < . 2:2(0) ack 101 win 65535", "+0.01");
    zh_net_close(s);
    SCRIPT("+0 > F. 101:101(0) ack 2");
    CHECK_STATE("LAST-ACK");
    SCRIPT("+0.1 < . 2:2(0) ack 102 win 65535");
    CHECK(script_state() == NULL);
}

/* Both at once: FIN-WAIT-1, CLOSING, TIME-WAIT (figure 13). */
static void simultaneous(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.05 < F. 1:1(0) ack 1 win 65535", "+0 > . 2:2(0) ack 2");
    CHECK_STATE("CLOSING");
    SCRIPT("+0.05 < . 2:2(0) ack 2 win 65535");
    CHECK_STATE("TIME-WAIT");
    SCRIPT("+60");
    CHECK(script_state() == NULL);
}

/* shutdown: our direction ends, the peer's goes on. */
static void half_close(void)
{
    struct zh_net_socket *s = script_open(65535);
    script_send(s, 100);
    CHECK_EQ(zh_net_shutdown(s, SHUT_WR), 0);
    CHECK_EQ(zh_net_send(s, "x", 1, 0), -EPIPE);
    SCRIPT("+0 > FP. 1:101(100) ack 1", "+0.1 < . 1:1(0) ack 102 win 65535");
    CHECK_STATE("FIN-WAIT-2");
    SCRIPT("+200 < P. 1:501(500) ack 102 win 65535", "+0 > . 102:102(0) ack 501");
    script_recv(s, 500);
    SCRIPT("+1 < FP. 501:601(100) ack 102 win 65535", "+0 > . 102:102(0) ack 602");
    CHECK_STATE("TIME-WAIT");
    CHECK_EQ(zh_net_ready(s), ZH_STREAM_IN | ZH_STREAM_HUP);
    script_recv(s, 100);
    script_recv(s, 0);
    CHECK_EQ(zh_net_send(s, "x", 1, 0), -EPIPE);
    zh_net_close(s);
}

/* FIN-WAIT-2 of a socket that nobody holds: 60 s, as Linux's tcp_fin_timeout. */
static void fin_wait_2_ends(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < . 1:1(0) ack 2 win 65535", "+59.999");
    CHECK_STATE("FIN-WAIT-2");
    SCRIPT("+0.002");
    CHECK(script_state() == NULL);
}

/* The FIN is retransmitted as data is (RFC 6298), in each state. */
static void fin_lost(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.3 > F. 1:1(0) ack 1", "+0.6 > F. 1:1(0) ack 1",
           "+0.1 < F. 1:1(0) ack 1 win 65535", "+0 > . 2:2(0) ack 2");
    CHECK_STATE("CLOSING");
    SCRIPT("+1.1 > F. 1:1(0) ack 2", "+0.1 < . 2:2(0) ack 2 win 65535");
    CHECK_STATE("TIME-WAIT");
}

static void last_ack_lost(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < F. 1:1(0) ack 1 win 65535", "+0 > . 1:1(0) ack 2");
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 2", "+0.3 > F. 1:1(0) ack 2",
           /* the peer's FIN once more: our ACK was lost */
           "+0.1 < F. 1:1(0) ack 1 win 65535", "+0 > . 2:2(0) ack 2",
           "+0.1 < . 2:2(0) ack 2 win 65535");
    CHECK(script_state() == NULL);
}

/* A FIN out of order waits for what comes before it. */
static void fin_out_of_order(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < F. 101:101(0) ack 1 win 65535", "+0 > . 1:1(0) ack 1");
    CHECK_STATE("ESTABLISHED");
    SCRIPT("+0.1 < P. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 102");
    CHECK_STATE("CLOSE-WAIT");
    script_recv(s, 100);
    script_recv(s, 0);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 102", "+0.1 < . 102:102(0) ack 2 win 65535");
}

/* TIME-WAIT's answers (section 3.10.7.4): the peer's FIN again is acknowledged and restarts the 2
 * MSL; anything out of the window is answered by an ACK; a bare ACK that fits is not. */
static void time_wait(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2",
           "+30 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2", "+59.999");
    CHECK_STATE("TIME-WAIT");
    SCRIPT("+0 < . 2:2(0) ack 2 win 65535", "+0.002");
    CHECK(script_state() == NULL);
}

static void time_wait_old_data(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < F. 1:1(0) ack 2 win 65535", "+0 > . 2:2(0) ack 2",
           "+1 < P. 1:1(0) ack 1 win 65535", "+0 > . 2:2(0) ack 2",
           /* an old SYN (RFC 9293 section 3.6.1, RFC 5961 section 4.2) */
           "+1 < S 0:0(0) win 1000", "+0 > . 2:2(0) ack 2");
    CHECK_STATE("TIME-WAIT");
}

/* MAY-2: a SYN beyond the old sequence numbers opens anew, with an ISN beyond the old one's last.
 */
static void time_wait_reopened(void)
{
    struct zh_net_socket *s = script_open(65535), *listener = script_listen(1);
    uint32_t before = script_iss();
    script_send(s, 1000);
    zh_net_close(s);
    SCRIPT("+0 > FP. 1:1001(1000) ack 1", "+0.1 < F. 1:1(0) ack 1002 win 65535",
           "+0 > . 1002:1002(0) ack 2");
    CHECK_STATE("TIME-WAIT");
    script_forget();
    SCRIPT("+1 < S 1000:1000(0) win 1000 <mss 1000>", "+0 > S. 0:0(0) ack 1001 <mss 1460>");
    CHECK((int32_t)(script_iss() - (before + 1002)) > 0);
    SCRIPT("+0.1 < R 1001:1001(0) win 0");
    zh_net_close(listener);
}

/* Section 3.6.1: data that was not read is told of by a reset. */
static void unread(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < P. 1:101(100) ack 1 win 65535", "+0 > . 1:1(0) ack 101");
    zh_net_close(s);
    SCRIPT("+0 > R. 1:1(0) ack 101");
    CHECK(script_state() == NULL);
}

/* So is what comes afterwards. */
static void data_after_close(void)
{
    struct zh_net_socket *s = script_open(65535);
    zh_net_close(s);
    SCRIPT("+0 > F. 1:1(0) ack 1", "+0.1 < . 1:1(0) ack 2 win 65535",
           "+0.1 < P. 1:101(100) ack 2 win 65535", "+0~+0 > R. 2:2(0) ack 1");
    CHECK(script_state() == NULL);
}

/* What is queued is sent before the FIN, also by a socket that is closed. */
static void queued_first(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 2500);
    SCRIPT("+0 > . 1:1001(1000) ack 1");
    zh_net_close(s);
    CHECK_STATE("FIN-WAIT-1");
    SCRIPT("+0.1 < . 1:1(0) ack 1001 win 1000", "+0 > . 1001:2001(1000) ack 1",
           "+0.1 < . 1:1(0) ack 2001 win 1000", "+0 > FP. 2001:2501(500) ack 1",
           "+0.1 < . 1:1(0) ack 2502 win 1000", "+0.1 < F. 1:1(0) ack 2502 win 1000",
           "+0 > . 2502:2502(0) ack 2");
    CHECK_STATE("TIME-WAIT");
}

/* SO_LINGER with no time: a reset (section 3.10.5, ABORT), queued data is gone. */
static void abort_connection(void)
{
    struct zh_net_socket *s = script_open(1000);
    script_send(s, 2500);
    SCRIPT("+0 > . 1:1001(1000) ack 1");
    struct linger linger = {.l_onoff = 1};
    CHECK_EQ(zh_net_setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    zh_net_close(s);
    SCRIPT("+0 > R. 1001:1001(0) ack 1 win 0");
    CHECK(script_state() == NULL);
}

/* Nothing is sent for a connection that does not exist but resets (section 3.10.7.1). */
static void no_connection(void)
{
    SCRIPT("+0 < . 10:10(0) ack 77 win 100", "+0 > R 77:77(0)", "+0 < P 10:110(100) win 100",
           "+0 > R. 0:0(0) ack 110", "+0 < S 10:10(0) win 100", "+0 > R. 0:0(0) ack 11",
           "+0 < F 10:10(0) win 100");
    SCRIPT("+0 > R. 0:0(0) ack 11", "+0 < R 10:10(0) win 100", "+0 < R. 10:10(0) ack 5 win 100",
           "+1");
}

/* A second close in the same breath as the peer's: the closing of a socket in CLOSE-WAIT whose FIN
 * comes with data. */
static void data_then_last_ack(void)
{
    struct zh_net_socket *s = script_open(65535);
    SCRIPT("+0 < F. 1:1(0) ack 1 win 65535", "+0 > . 1:1(0) ack 2");
    script_send(s, 1500);
    zh_net_close(s);
    SCRIPT("+0 > . 1:1001(1000) ack 2", "+0 > FP. 1001:1501(500) ack 2",
           "+0.1 < . 2:2(0) ack 1001 win 65535");
    CHECK_STATE("LAST-ACK");
    SCRIPT("+0.1 < . 2:2(0) ack 1502 win 65535");
    CHECK(script_state() == NULL);
}

int main(void)
{
    script_start();
    RUN(we_close);
    RUN(fin_with_ack);
    RUN(peer_closes);
    RUN(simultaneous);
    RUN(half_close);
    RUN(fin_wait_2_ends);
    RUN(fin_lost);
    RUN(last_ack_lost);
    RUN(fin_out_of_order);
    RUN(time_wait);
    RUN(time_wait_old_data);
    RUN(time_wait_reopened);
    RUN(unread);
    RUN(data_after_close);
    RUN(queued_first);
    RUN(abort_connection);
    RUN(no_connection);
    RUN(data_then_last_ack);
    return 0;
}
