/* TCP: a connection's state and how its mechanisms call each other; one mechanism a file. Names as
 * in RFC 9293 section 3.3.1. Times are ns. Owned by the thread that runs the stack. */
#ifndef ZEROHOP_NET_TCP_H
#define ZEROHOP_NET_TCP_H

#include <stdatomic.h>
#include <sys/queue.h>

#include "stack.h"
#include "tcp_prr.h"
#include "tcp_rack.h"
#include "tcp_seq.h"

/* RFC 9293 section 3.3.2, in its order; TCPS_ as in BSD, since netinet/tcp.h has the names. */
enum tcp_state {
    TCPS_CLOSED,
    TCPS_LISTEN,
    TCPS_SYN_SENT,
    TCPS_SYN_RECEIVED,
    TCPS_ESTABLISHED,
    TCPS_FIN_WAIT_1,
    TCPS_FIN_WAIT_2,
    TCPS_CLOSE_WAIT,
    TCPS_CLOSING,
    TCPS_LAST_ACK,
    TCPS_TIME_WAIT,
};

enum tcp_flag {
    TCP_FIN = 0x01,
    TCP_SYN = 0x02,
    TCP_RST = 0x04,
    TCP_PSH = 0x08,
    TCP_ACK = 0x10,
    TCP_URG = 0x20,
    TCP_ECE = 0x40,
    TCP_CWR = 0x80,
};

struct tcp_header {
    uint16_t src_port, dst_port;
    uint32_t seq, ack;
    uint8_t offset; /* upper four bits: the header's size in words */
    uint8_t flags;
    uint16_t window, checksum, urgent;
} __attribute__((packed));

enum {
    TCP_HEADER_MAX = 60,
    TCP_ECN_MASK = 3, /* of the traffic class; RFC 3168 section 5 */
    TCP_ECT0 = 2,
    TCP_CE = 3,
    TCP_MSS_DEFAULT_V4 = 536,  /* RFC 9293 section 3.7.1 */
    TCP_MSS_DEFAULT_V6 = 1220, /* the same */
    TCP_MSS_MIN = 88, /* of a peer's option; less is taken for this (as Linux's min_snd_mss) */
    TCP_WINDOW_SHIFT_MAX = 14, /* RFC 7323 section 2.3 */
    TCP_SACK_MAX = 4,          /* blocks in one header; 3 beside timestamps */
    TCP_COPY_MAX = 256,        /* payload of at most this is copied beside the header */
    TCP_DUPACK_THRESHOLD = 3,  /* RFC 5681 section 3.2 */
    TCP_SYN_RETRIES = 6, /* as Linux; RFC 9293 section 3.8.3: R2 of a SYN at least 3 minutes */
    TCP_SYNACK_RETRIES = 5,
    TCP_RETRIES = 15, /* as Linux; RFC 1122 section 4.2.3.5: R2 at least 100 s */
};
#define TCP_RTO_INITIAL NET_SECOND         /* RFC 6298 (2.1) */
#define TCP_RTO_AFTER_SYN (3 * NET_SECOND) /* RFC 6298 (5.7): if it was retransmitted */
#define TCP_RTO_MAX (120 * NET_SECOND)     /* RFC 6298 (2.5): at least 60 s; as Linux */
#define TCP_CWND_MAX (UINT32_C(1) << 30)

/* --- options (tcp_options.c)
 * ---------------------------------------------------------------------- */

struct tcp_sack_block {
    uint32_t start, end;
};

struct tcp_options {
    bool has_mss, has_window_shift, sack_permitted, has_timestamps;
    uint16_t mss;
    uint8_t window_shift;
    uint8_t sack_count;
    uint32_t tsval, tsecr;
    struct tcp_sack_block sack[TCP_SACK_MAX];
};

/* Read the options of a header; unknown ones, and those whose length is not their kind's, are
 * skipped; a length that cannot be ends the reading (RFC 9293 section 3.1, MUST-6 and 7). MSS,
 * window scale and SACK-permitted count on a SYN only, SACK on others only. An MSS is at least
 * TCP_MSS_MIN, a shift at most TCP_WINDOW_SHIFT_MAX, and a SACK block is not empty. */
void tcp_options_parse(const uint8_t *options, size_t size, bool syn, struct tcp_options *out);
/* Write them, padded to words; returns the size, at most 40. SACK blocks that do not fit are left
 * out. */
size_t tcp_options_emit(const struct tcp_options *options, uint8_t *out);

/* --- the flow table (tcp_table.c)
 * ------------------------------------------------------------------ */

struct tcp_flow {
    struct net_addr local, remote;
    uint16_t local_port, remote_port; /* network byte order */
};

enum tcp_entry_kind { TCP_ENTRY_SOCKET, TCP_ENTRY_REQUEST, TCP_ENTRY_TIME_WAIT };

/* What the table holds: connections, and in their place the small forms of their first and last
 * states. */
struct tcp_entry {
    struct tcp_entry *next;
    struct tcp_flow flow;
    uint8_t kind;
};

struct zh_net_connection;

struct tcp_entry *tcp_table_find(struct zh_net *net, const struct tcp_flow *flow);
void tcp_table_add(struct zh_net *net, struct tcp_entry *entry);
void tcp_table_remove(struct zh_net *net, struct tcp_entry *entry);
/* Who listens on an address and port; NULL. */
struct zh_net_socket *tcp_table_listener(struct zh_net *net, const struct net_addr *local,
                                         uint16_t port);
/* A free local port for flow->remote (RFC 6056 section 3.3.4, algorithm 4: double hash). False: all
 * are taken. */
bool tcp_table_choose_port(struct zh_net *net, struct tcp_flow *flow);

/* --- sending: what is queued (tcp_queue.c) and what is under way (tcp_sent.c)
 * ------------------------ */

/* Memory that segments refer to. Its count: one for the queue and one for each packet attached;
 * whoever takes it to 0 calls `release`, and frees the loan. One allocation. */
struct net_loan {
    struct rte_mbuf_ext_shared_info shared; /* refcnt, 16 bits */
    void (*release)(void *opaque);
    void *opaque;
    uint32_t used, size; /* of `copy` */
    uint8_t copy[];      /* the bytes of copying sends */
};

/* A run of bytes to be sent. */
struct tcp_chunk {
    uint64_t start; /* stream offset: 0 is the first byte after the SYN */
    const uint8_t *data;
    uint64_t size;
    struct net_loan *loan;
    bool
        record_end; /* a segment that has all of this record ends here rather than split the next */
};

struct tcp_queue {
    struct tcp_chunk *chunks; /* a ring, in order; NULL while empty */
    uint32_t first, count, capacity;
    uint32_t hint; /* place of the chunk that was looked for last */
    uint64_t end;  /* stream offset after the last byte */
};

/* One transmitted segment that is not wholly acknowledged (RFC 8985 section 5.1's per-segment
 * state). */
struct tcp_sent {
    uint64_t sent_at; /* of its last transmission */
    uint32_t seq, end;
    uint8_t flags; /* TCP_SENT_* */
    uint8_t transmissions;
    uint32_t skip; /* of one selectively acknowledged: so are the skip - 1 after it; 0: as 1 */
};

enum {
    TCP_SENT_SACKED = 1,
    TCP_SENT_LOST = 2,          /* taken for lost; not yet retransmitted since */
    TCP_SENT_RETRANSMITTED = 4, /* at least once */
    TCP_SENT_FIN = 8,
    TCP_SENT_SYN = 16,
};

struct tcp_sent_ring {
    struct tcp_sent *records; /* a ring in order of seq; NULL while empty */
    uint32_t first, count, capacity;
    uint32_t bytes_sacked, bytes_lost; /* sequence space of the records so flagged */
    uint32_t records_sacked;
    uint32_t lost_hint; /* the first lost record is not before this place */
};

/* --- receiving (tcp_receive.c, tcp_reorder.c)
 * --------------------------------------------------------- */

/* What a connection's packets hold of memory, those that the application has taken included.
 * Counted: one for the socket, one for each packet that was taken; the last frees it. */
struct tcp_account {
    _Atomic uint32_t references;
    _Atomic int64_t taken; /* bytes of packet memory the application holds; any thread takes away */
};

/* Received segments that follow one another, linked by their packets. */
struct tcp_run {
    uint32_t start, end;
    struct rte_mbuf *head, *tail;
};

enum { TCP_RUNS_MAX = 64 };

struct tcp_reorder {
    struct tcp_run *runs; /* sorted; NULL while there are none; owned */
    uint16_t count;
    uint32_t memory; /* bytes of packet memory */
    /* A byte of each run that grew or was hit lately, the latest first (RFC 2018 section 4). */
    uint32_t recent[TCP_SACK_MAX];
    struct tcp_sack_block duplicate; /* to report once as D-SACK (RFC 2883); start == end: none */
};

/* --- congestion control (tcp_newreno.c, tcp_cubic.c)
 * ----------------------------------------------------- */

struct tcp_ack {
    uint32_t acked;          /* bytes of sequence space newly acknowledged cumulatively */
    uint32_t delivered;      /* these and those newly selectively acknowledged */
    uint32_t lost;           /* bytes newly taken for lost */
    uint32_t in_flight;      /* before this ACK */
    uint64_t rtt;            /* ns; 0: no sample */
    bool original_delivered; /* sent once, and before the last timeout */
    bool ce;                 /* ECN echo: RFC 3168's ECE */
    bool in_recovery;
    bool app_limited; /* the window was not the limit (RFC 7661) */
};

struct zh_net_socket;

struct tcp_congestion {
    const char *name;
    /* Begin, or take over from another; cwnd and ssthresh are set and stay (tcp_initial_window). */
    void (*start)(struct zh_net_socket *s);
    /* Grow cwnd. Called outside recovery only. */
    void (*on_ack)(struct zh_net_socket *s, const struct tcp_ack *ack);
    /* Recovery or ECN begins: set ssthresh (bytes). `s->cwnd` is what it was. */
    void (*on_loss)(struct zh_net_socket *s);
    /* The first timeout of a segment: set ssthresh; later ones of it keep it (RFC 5681
     * section 3.1). cwnd is set by the caller: one segment. */
    void (*on_timeout)(struct zh_net_socket *s);
    /* The reduction was a mistake: cwnd and ssthresh are restored already. */
    void (*undo)(struct zh_net_socket *s);
};

extern const struct tcp_congestion tcp_newreno, tcp_cubic;
/* NULL: there is none of that name. */
const struct tcp_congestion *tcp_congestion_find(const char *name);

/* --- a socket
 * ---------------------------------------------------------------------------------------------- */

/* F-RTO (RFC 5682 section 3.1): whether a timeout was spurious is found out by what comes next. */
enum tcp_frto {
    TCP_FRTO_OFF,
    TCP_FRTO_RETRANSMITTED, /* the first segment: step 2 */
    TCP_FRTO_NEW_DATA,      /* is sent in place of what was under way: step 3 */
};

/* Of the last reduction of the window (tcp_undo.c). */
struct tcp_undo {
    uint64_t cwnd, ssthresh; /* before it */
    uint32_t una;
    uint32_t stamp;           /* TSval of the first retransmission since */
    uint32_t retransmissions; /* since */
    uint32_t unneeded_left;   /* of these, not yet reported as duplicates */
    uint32_t until;           /* snd_nxt when recovery ended: duplicates are reported before */
    bool possible;
    uint8_t frto; /* enum tcp_frto */
};

enum tcp_deadline {                       /* of those due at the same time the first is run first */
                    TCP_DEADLINE_REORDER, /* RACK: segments that may yet come have not (RFC 8985
                                             section 6.2) */
                    TCP_DEADLINE_PROBE,   /* tail loss probe; goes in place of a timeout (RFC 8985
                                             section 7.2) */
                    TCP_DEADLINE_RTO,     /* retransmission, or the next probe of a zero window */
                    TCP_DEADLINE_ACK,     /* delayed ACK */
                    TCP_DEADLINE_KEEPALIVE,
                    TCP_DEADLINE_LINGER, /* FIN-WAIT-2 of a closed socket */
                    TCP_DEADLINES,
};

enum { /* zh_net_socket.flags */
       TCP_HAS_TIMESTAMPS = 1 << 0,
       TCP_HAS_SACK = 1 << 1,
       TCP_HAS_SCALE = 1 << 2,
       TCP_NO_DELAY = 1 << 3,
       TCP_CORKED = 1 << 4,
       TCP_KEEPALIVE_ON = 1 << 5,
       TCP_DETACHED = 1 << 6, /* closed by the application: no handle is left */
       TCP_SHUT_READ = 1 << 7,
       TCP_SHUT_WRITE = 1 << 8, /* a FIN follows what is queued */
       TCP_FIN_SENT = 1 << 9,
       TCP_FIN_RECEIVED = 1 << 10, /* all before it was received too */
       TCP_ACK_NOW = 1 << 11,
       TCP_IN_RECOVERY = 1 << 12,  /* loss recovery: until snd_una reaches recover */
       TCP_AFTER_RTO = 1 << 13,    /* as above, after a timeout */
       TCP_HAS_ECN = 1 << 14,      /* asked for, then agreed */
       TCP_LINGER_RESET = 1 << 15, /* SO_LINGER with 0: close resets */
       TCP_BOUND = 1 << 16,
       TCP_QUEUED_OUT = 1 << 17,
       TCP_QUEUED_READY = 1 << 18,
       TCP_IN_TABLE = 1 << 19,
       TCP_NO_WINDOW = 1 << 21,    /* the last window that we sent was too small for a segment */
       TCP_ERROR_GIVEN = 1 << 24,  /* by SO_ERROR */
       TCP_MORE = 1 << 26,         /* MSG_MORE: as TCP_CORKED, until the next send without */
       TCP_STARVED = 1 << 25,      /* TCP_NO_WINDOW, and in the list of those */
       TCP_SEND_BLOCKED = 1 << 23, /* a send found the queue full: tell when it is not */
       TCP_ECN_ECHO = 1 << 27,     /* a mark was received: ECE until CWR comes */
       TCP_ECN_CWR = 1 << 28,      /* due on the next new data */
       TCP_ECN_REDUCED = 1 << 29,  /* ecn_recover means something */
       TCP_ECN_SEEN = 1 << 30,     /* an ECN-capable segment was received */
};

struct tcp_listener {
    TAILQ_HEAD(, zh_net_socket) accepted; /* established, to be given to accept */
    TAILQ_HEAD(, tcp_request) requests;   /* in SYN-RECEIVED, oldest first */
    uint32_t backlog, accepted_count, request_count;
    uint64_t cookie_sent_at; /* the last one; 0: none */
};

/* A socket: fresh, listening, or a connection from SYN-SENT or ESTABLISHED on. */
struct zh_net_socket {
    struct tcp_entry entry; /* first */
    struct zh_net *net;
    struct zh_stream stream;
    void *user;
    uint32_t flags;
    uint8_t state;
    uint8_t snd_shift, rcv_shift; /* window scale: the peer's, ours */
    int error;                    /* positive errno; given once by SO_ERROR, else on every call */
    int error_soft; /* an ICMP error that the retransmission timer is left to decide about */
    sa_family_t family;
    TAILQ_ENTRY(zh_net_socket) all_link, ready_link, out_link, accept_link, starved_link;
    struct tcp_listener *listener;       /* of a listener; owned */
    struct zh_net_socket *from_listener; /* of a connection that was not accepted yet */

    struct net_timer timer;           /* set for the earliest of these, or earlier */
    uint64_t deadline[TCP_DEADLINES]; /* 0: not set */

    /* send sequence space */
    uint32_t iss, snd_una, snd_nxt, snd_wnd, snd_wl1, snd_wl2;
    uint32_t snd_wnd_max; /* the largest ever offered (RFC 9293 section 3.8.6.2.1) */
    uint32_t recover;     /* RFC 6582: snd_nxt when recovery began; less than snd_una afterwards */
    uint32_t ecn_recover; /* snd_nxt when the window was last reduced (RFC 3168 section 6.1.2) */
    uint64_t una_offset;  /* stream offset of snd_una */
    uint64_t nxt_offset;  /* stream offset of snd_nxt */
    struct tcp_queue queue;
    struct tcp_sent_ring sent;
    uint64_t send_limit;
    uint16_t mss; /* payload of a segment without options: the least of path, peer and own */
    uint16_t mss_peer, mss_user;
    uint64_t path_expires; /* when mss is to be reckoned anew; NET_NEVER: not */

    /* receive sequence space */
    uint32_t irs, rcv_nxt;
    uint32_t rcv_advertised;              /* right edge that the peer knows; never goes back */
    uint32_t fin_seq;                     /* of the peer's FIN, where it has come out of order */
    struct rte_mbuf *rcv_head, *rcv_tail; /* in order, to be taken; owned */
    uint32_t rcv_queued;                  /* bytes of payload there */
    uint32_t rcv_memory;                  /* bytes of packet memory there */
    uint32_t rcv_budget;                  /* of packet memory: queued, out of order and taken */
    uint16_t rcv_ratio; /* payload in 1/256 of packet memory, as full segments have had it */
    uint16_t rcv_mss;   /* the largest segment seen: RFC 9293 section 3.8.6.3's "full-sized" */
    uint32_t unacked;   /* bytes received since the last ACK that we sent */
    uint16_t unacked_segments;
    bool has_fin_seq;
    struct tcp_reorder reorder;
    struct tcp_account *account; /* owned jointly; NULL until a packet was taken */

    /* timestamps (RFC 7323) */
    uint32_t ts_recent, ts_offset, last_ack_sent;
    uint64_t ts_recent_at;
    uint64_t challenged_at; /* when the last challenge ACK was sent */
    uint64_t stray_at;      /* when an unacceptable segment without data was last answered */

    /* RTT and RTO (RFC 6298), ns */
    uint64_t srtt, rttvar, rto, rto_min;
    uint8_t backoff;        /* doublings since the last sample (Karn) */
    uint8_t retries;        /* expiries since the last progress: what R2 counts */
    uint8_t retries_before; /* when the last timeout came */
    uint8_t dupacks;
    uint8_t keepalive_probes;
    uint8_t quick_acks; /* ACKs still to be sent at once */

    /* congestion control: bytes */
    const struct tcp_congestion *congestion;
    uint64_t cwnd, ssthresh;
    uint64_t validated_at;         /* when half of cwnd was last in use (RFC 7661) */
    uint64_t cwnd_acked;           /* appropriate byte counting (RFC 3465) */
    uint32_t used_until;           /* sequence number up to which the two below are kept */
    uint32_t used_most;            /* the most bytes in flight at the end of an output */
    bool used_up;                  /* cwnd was what ended it */
    uint64_t congestion_state[12]; /* the algorithm's own */
    struct tcp_prr prr;
    struct tcp_undo undo;
    uint64_t rto_at; /* of the last timeout */
    struct tcp_rack rack;
    struct tcp_tlp tlp;
    uint32_t retransmissions;
    uint64_t bytes_received; /* of payload, in order */
    uint64_t bytes_copied;   /* both directions */

    /* options of sockets, ns */
    uint64_t keepalive_idle, keepalive_interval, user_timeout;
    uint8_t keepalive_count;
    uint64_t last_received, last_progress;
};

/* SYN-RECEIVED of a passive open (tcp_listen.c). */
struct tcp_request {
    struct tcp_entry entry; /* first */
    TAILQ_ENTRY(tcp_request) link;
    struct zh_net_socket *listener;
    struct net_timer timer;
    uint64_t sent_at;
    uint32_t iss, irs, ts_recent, ts_offset;
    uint32_t window; /* the SYN's, not scaled */
    uint16_t mss;
    uint8_t window_shift, retries;
    bool has_scale, has_sack, has_ecn, has_timestamps;
};

/* TIME-WAIT (tcp_time_wait.c). */
struct tcp_time_wait {
    struct tcp_entry entry;          /* first */
    TAILQ_ENTRY(tcp_time_wait) link; /* in order of expiry */
    uint64_t expires;
    uint32_t snd_nxt, rcv_nxt, rcv_wnd, ts_recent, ts_offset;
    bool has_timestamps;
};

/* --- TCP as a whole
 * -------------------------------------------------------------------------------------- */

/* tcp_pressure.c */
struct tcp_pressure {
    struct rte_mempool *headers; /* of copies; owned */
    struct tcp_copies *copies;   /* owned jointly with these */
    uint64_t limit;              /* bytes of copies */
    uint32_t kept;               /* packets since the port was last asked what it has left */
    bool low;                    /* the port has too few packets left */
};

struct tcp {
    struct tcp_entry **buckets; /* by keyed hash of the flow; a power of two; owned */
    uint32_t bucket_mask;
    uint32_t sockets, requests, time_waits;
    TAILQ_HEAD(tcp_out_list, zh_net_socket)
    out;                               /* have something to send at the end of this round */
    TAILQ_HEAD(, zh_net_socket) ready; /* for zh_net_wait */
    TAILQ_HEAD(, zh_net_socket) listeners;
    TAILQ_HEAD(, zh_net_socket)
    starved;                         /* their window was closed: packets given back may open it */
    TAILQ_HEAD(, zh_net_socket) all; /* for zh_net_destroy and zh_net_connections */
    TAILQ_HEAD(, tcp_time_wait) time_wait;
    struct net_timer time_wait_timer;
    struct net_limit cookie_resets;
    struct tcp_pressure pressure;
    uint16_t port_table[64]; /* RFC 6056 section 3.3.4 */
};

#endif
