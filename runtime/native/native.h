/*
 * The call path: what the files of the extension share.
 *
 * Everything here is guarded by the GIL unless it says otherwise; the extension releases the GIL
 * only while it spins, sleeps, commits memory or copies large messages. Free-threaded builds are
 * refused.
 */
#ifndef ZEROHOP_NATIVE_H
#define ZEROHOP_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <structmember.h>

#include "zerohop/link.h"

/* Py_TYPE for pointers to our structs: the limited API's does not cast. */
#define TYPE_OF(object) Py_TYPE((PyObject *)(object))

/* gRPC status codes that the core itself produces (grpc.StatusCode). */
enum {
    STATUS_OK = 0,
    STATUS_CANCELLED = 1,
    STATUS_UNKNOWN = 2,
    STATUS_DEADLINE_EXCEEDED = 4,
    STATUS_RESOURCE_EXHAUSTED = 8,
    STATUS_FAILED_PRECONDITION = 9,
    STATUS_UNIMPLEMENTED = 12,
    STATUS_INTERNAL = 13,
    STATUS_UNAVAILABLE = 14,
    STATUS_LAST = 16,
};

/* What can happen to a call, and what a thread can wait for. */
enum {
    EVENT_INITIAL = 1,  /* initial metadata is there (or will never be) */
    EVENT_MESSAGE = 2,  /* recv has something: a message or the end */
    EVENT_WRITABLE = 4, /* send would not queue (or is pointless) */
    EVENT_DONE = 8,     /* the status is known */
};

/*
 * Flow control of streams. A message costs its length and a little; a sender may post while it has
 * any credit left, so one message of any size fits. The receiver grants again what its reader took,
 * in halves of the window, which bounds the credit entries of a call in the return ring to two.
 */
#define STREAM_WINDOW (256 * 1024)
#define MESSAGE_COST(bytes) ((int64_t)((bytes) < (1u << 30) ? (bytes) : (1u << 30)) + 64)

/* Copies from this size on are made without the GIL. */
#define BIG_COPY (128u * 1024)

/* Sections of a metadata area. */
enum { SECTION_INITIAL = 0, SECTION_TRAILING = 1, SECTION_DETAILS = 2, SECTION_METHOD = 3 };

/* gRPC's limits for the metadata of one direction (names, values and 32 bytes each, as HPACK
 * counts): the defaults of grpc.max_metadata_size and grpc.absolute_max_metadata_size. */
#define METADATA_SOFT_LIMIT (8u * 1024)
#define METADATA_HARD_LIMIT (16u * 1024)

/* Sockets that one server listens on. */
#define SERVER_LISTENERS 16

typedef struct Call Call;
typedef struct Link Link;
typedef struct Pump Pump;
typedef struct Server Server;

/* A growing private buffer that starts on the stack. */
typedef struct {
    uint8_t *data;
    size_t used, room;
    size_t counted; /* HPACK size of the entries, for the limit */
    uint8_t small[1024];
} Buffer;

/* A thread that waits, on its own stack. In two lists: its call's and its pump's. */
typedef struct Waiter {
    struct Waiter *call_next;
    struct Waiter *pump_next, *pump_prev;
    _Atomic uint32_t word; /* futex: 0 while it shall sleep */
} Waiter;

/* Messages received and not yet taken. */
typedef struct {
    PyObject **items;
    uint32_t head, used, room; /* room is a power of two */
} Queue;

struct Call {
    PyObject_HEAD
    PyObject *weakrefs;
    Link *link;          /* strong; NULL before start and after the end */
    PyObject *peer;      /* server, after the end: see link_peer */
    Pump *pump;          /* strong once started */
    Server *server;      /* strong, of server calls */
    Call *next;          /* in the pump's queue of calls to serve, strong */
    Call *event_next;    /* in the pump's queue of events, strong */
    Call *stalled_next;  /* in the link's list of calls that have something to post, strong */
    uint64_t id;         /* index | generation << 32 */
    uint64_t deadline;   /* CLOCK_MONOTONIC ns, 0: none */
    uint32_t heap_index; /* 1 + position in the pump's heap of deadlines, 0: not there */
    uint32_t fork_generation;
    bool client;
    bool started;      /* client: the CALL record has been posted; server: it has been received */
    bool done;         /* the status is known (client) or has been posted (server) */
    bool background;   /* counts in pump->background until done */
    bool stalled;      /* in link->stalled */
    bool starved;      /* counts in link->starved */
    bool queued_event; /* in the pump's queue of events */
    bool want_end;     /* half-close as soon as the outbox is empty */
    bool sent_end;
    bool got_end; /* the peer sends no more messages */
    bool sent_initial;
    bool got_initial;
    bool cancelled;  /* server: the client gave up, the deadline passed or the link died;
                        client: given up here */
    bool flushing;   /* a thread is copying the outbox, without the GIL */
    bool finishing;  /* server: likewise the last message */
    bool running;    /* server: counts in server->running */
    bool open;       /* server: counts in server->open */
    bool pinned;     /* holds a reference to itself: somebody waits for its callback */
    bool images;     /* the peer takes images */
    uint32_t events; /* not yet told to on_event */
    int64_t send_credit;
    int64_t recv_window;
    int64_t consumed; /* taken by the reader, not yet granted again */
    uint64_t max_receive;
    uint64_t max_send;
    Waiter *waiters;
    Queue inbox;
    PyObject *outbox;        /* message that waits for credit or space */
    PyObject *method;        /* str */
    PyObject *types;         /* client: bytes, the fingerprints of generated messages, or NULL */
    PyObject *metadata_area; /* bytes: encoded metadata of a call that has not started */
    PyObject *initial_raw;   /* bytes: metadata received, decoded when asked for */
    PyObject *trailing_raw;
    PyObject *details;   /* str */
    PyObject *on_event;  /* callable(events) */
    PyObject *waiter;    /* a future of the event loop, to be resolved when the call is done */
    PyObject *owner;     /* client: the Channel, until done */
    PyObject *entry;     /* server: the handler (a tuple) or None */
    PyObject *user_code; /* server: what the handler set */
    PyObject *user_details;
    PyObject *user_trailing;
    PyObject *user_initial;
    int code;      /* -1 until done */
    uint32_t name; /* server: number of the method on its link */
};

enum { AGREED_UNASKED = 0, AGREED_ASKED, AGREED_YES, AGREED_NO };

struct Link {
    PyObject_HEAD
    struct zh_link *link;
    Pump *pump;     /* strong */
    Server *server; /* strong; NULL at the client */
    bool greeting;
    bool dead;           /* calls have been failed; no longer in the pump's list */
    bool goaway;         /* the server takes no more calls on this link */
    bool wants_space;    /* the peer rings when it frees slots, and the link is ready then */
    bool wants_returns;  /* the peer rings when it returns something */
    uint32_t starved;    /* calls whose outbox waits for credit */
    uint32_t open_calls; /* slots of the ring kept for their last records */
    uint32_t given_up;   /* client: of these, calls whose last record nobody waits for */
    uint32_t next_name;
    bool kept;                /* the record being delivered has been held by an image */
    bool unanswered;          /* server: there are answers to post */
    uint32_t answered;        /* server: names whose answers have been posted */
    uint8_t agreed[ZH_NAMES]; /* do both sides lay out a method's messages alike? */
    PyObject *names; /* client: dict of method (with fingerprints: bytes) to number; server: list */
    PyObject *entries;               /* server: list of handlers, parallel to names */
    PyObject *on_dead;               /* callable() */
    PyObject *peer;                  /* tuple (pid, uid, agent), made when first asked for */
    Call *deferred, **deferred_tail; /* server: over max_streams, to be served later; strong */
    uint32_t deferred_count;
    Call *stalled, **stalled_tail;
    uint64_t retry_at;       /* when they are tried again, whatever has happened */
    uint64_t retry_returned; /* blocks that this process had got back when they were last tried */
    uint32_t free_count;
    uint16_t free_list[ZH_CALLS];
    uint32_t generations[ZH_CALLS];
    /* Strong at the server, borrowed at the client; NULL also for a call that was given up and
     * whose status has not come. */
    Call *calls[ZH_CALLS];
};

struct Pump {
    PyObject_HEAD
    struct zh_pump *pump;
    uint32_t fork_generation;
    bool aio; /* polled by an event loop */
    bool closing;
    void *holder; /* whoever dispatches now; NULL when nobody does */
    _Atomic uint32_t
        evict;         /* the spinning holder may be replaced: it checks this without the GIL */
    bool holder_idle;  /* the holder is a background thread that spins */
    Call *asleep_for;  /* borrowed: the call for which the holder sleeps in epoll */
    uint32_t sleepers; /* background threads in epoll_wait: at most one */
    uint32_t parked;   /* background threads that wait for work */
    uint32_t parked_for_good; /* of these, those that only a kick ends */
    uint32_t pooled;          /* servers here that hand their calls to a pool */
    uint32_t threads;         /* background threads in all */
    uint32_t serving;         /* of these, those that are in a handler or a callback */
    bool kicked;              /* the sleeper is being woken */
    bool overdue;             /* a timer rang for a thread that could not look at the deadlines */
    uint32_t greeting;        /* links whose peers have not greeted yet */
    uint32_t background;      /* open calls that nobody may be waiting for */
    uint32_t servers;         /* servers that listen here */
    Waiter *waiters;          /* client threads that sleep, oldest first */
    Waiter *waiters_last;
    Waiter *parking;             /* background threads that sleep */
    Call *calls, **calls_tail;   /* to be served */
    Call *events, **events_tail; /* whose on_event is to be called */
    Call **heap;                 /* by deadline; borrowed: a call leaves it when it is done */
    uint32_t heap_used, heap_room;
    Link **links; /* strong */
    uint32_t link_count, link_room;
    Server **listeners; /* strong: by key of the listening descriptor */
    uint32_t listener_count;
    uint64_t spin_ns;     /* what a waiter may spin now; adapts */
    uint64_t last_events; /* when epoll was last asked */
    uint64_t last_progress;
    PyObject *spawn; /* callable(pump): starts a background thread; aio: finds a guardian */
    /* Of an event loop's pump, as a ward (see guard.c). */
    Pump *guardian;      /* in whose list it is: borrowed; or NULL */
    bool overheard;      /* its guardian's epoll set watches ours */
    uint32_t polls;      /* by the loop */
    uint32_t polls_seen; /* of these, when its guardian last looked */
    uint64_t look_at;    /* when it looks next; 0: when there is an event */
    PyObject *before;    /* callable(), before it looks */
    /* Of the pump that is their guardian. */
    Pump **wards; /* strong */
    uint32_t ward_count, ward_room;
};

struct Server {
    PyObject_HEAD
    Pump *pump; /* strong */
    int listeners[SERVER_LISTENERS];
    uint32_t listener_count;
    uint32_t key;      /* in the pump's table of listeners */
    bool serving;      /* between start and stop */
    bool listened_for; /* counts in pump->servers: from start to the end of the last call */
    bool paused;       /* out of descriptors: not accepting for a moment */
    bool stopping;
    uint32_t open;       /* calls received whose status has not been posted */
    uint32_t running;    /* calls received whose handlers have not returned */
    int64_t max_running; /* maximum_concurrent_rpcs; -1: none */
    uint32_t
        max_streams; /* calls served at once on a link (grpc.max_concurrent_streams); 0: no limit */
    uint64_t max_receive;
    uint64_t max_send;
    PyObject *call_type; /* the Python callables: see the members in server.c */
    PyObject *resolve;
    PyObject *types; /* callable(method) -> bytes or None: see method_types */
    PyObject *submit;
    PyObject *may_poll;
    PyObject *on_call;
    PyObject *conclude;
    PyObject *on_idle;
    PyObject *on_cancel;
    PyObject *allow_uids;
};

extern PyTypeObject *Pump_Type, *Link_Type, *Server_Type, *ClientCall_Type, *ServerCall_Type;
extern PyTypeObject *UnaryUnary_Type, *Channel_Type;
extern PyObject *InvalidMetadata; /* a ValueError */
extern PyObject *loan_tracer;     /* callable(method or None) -> int, or NULL */

/* buffer.c: metadata and private buffers */
void buffer_init(Buffer *buffer);
void buffer_free(Buffer *buffer);
/* Append the pairs of `metadata` (None: nothing). -1 with ValueError, TypeError or MemoryError. */
int metadata_encode(Buffer *buffer, PyObject *metadata, int section);
int metadata_encode_text(Buffer *buffer, int section, const char *text, size_t bytes);
/* Was the exception of metadata_encode about a key or value that gRPC forbids? Clears it then. */
bool metadata_was_invalid(void);
#define INVALID_METADATA "Invalid metadata"
/*
 * Is what has been encoded more than gRPC would take? As there, with a probability that grows from
 * 0 at the soft limit to 1 at the hard one, so that who grows towards it learns of it early. Then
 * `text` says so.
 */
#define METADATA_REFUSAL 80
bool metadata_refused(const Buffer *buffer, char text[METADATA_REFUSAL]);
/* Append an area that has been encoded before. */
int metadata_append_raw(Buffer *buffer, const uint8_t *raw, size_t bytes);
/* Check the framing of a private copy. */
bool metadata_check(const uint8_t *data, size_t bytes);
/* A tuple of make(key, value) for the entries of a section. `raw`: bytes that passed
 * metadata_check. */
PyObject *metadata_decode(PyObject *raw, int section, PyObject *make);
/* The text of the first entry of a section: new reference, or NULL without an exception. */
PyObject *metadata_text(const uint8_t *data, size_t bytes, int section);

/* message.c */
void own_arena_refresh(void);

/* snapshot.c: messages under way, beside bytes */
bool is_outgoing(PyObject *message); /* bytes or a snapshot */
uint64_t message_bytes(PyObject *message);
/* The wire bytes of a snapshot, new; NULL with an exception. */
PyObject *snapshot_wire(PyObject *snapshot);
/* Can the link's peer read the snapshot's blocks? */
bool snapshot_fits(PyObject *snapshot, Link *link);
/* The same with all memory in our own arena, if that makes it fit; NULL if not. Counted. */
PyObject *snapshot_local(PyObject *snapshot, Link *link);
/* Let go of what loans that have ended by now have held. */
void holds_end(void);
int snapshot_lend(PyObject *snapshot, Link *link, uint64_t tag, struct zh_loaned *loaned);
/* Does it refer to memory of the peer's? */
bool snapshot_lends_back(PyObject *snapshot, Link *link);
/* Its root, and what it has outside; `blocks`: which must be lent. */
const uint8_t *snapshot_root(PyObject *snapshot, size_t *bytes, uint32_t *outside, bool *blocks);
bool is_snapshot(PyObject *message);
/* An image as it has come; holds its loan until it is dropped. New reference. */
PyObject *received_new(Link *link, const struct zh_received *record);
/* What a client call's method is named by: the method, or (method, fingerprints of its messages)
 * where both (de)serializers are of generated classes. New reference. */
PyObject *method_key(PyObject *method, PyObject *serializer, PyObject *deserializer);
/* What takes the place of a generated class's SerializeToString; another serializer stays. */
PyObject *image_serializer(PyObject *serializer);

/* interrupt.c */
int interrupt_init(PyObject *module);
/* Does this thread run Python's signal handlers? In a forked child it is the one that forked. */
bool in_main_thread(void);
/* Has Ctrl-C come since the last look? The next PyErr_CheckSignals raises it. */
bool interrupt_pending(void);
/* PyErr_WriteUnraisable, but a Ctrl-C is raised again by the next code that can. */
void write_unraisable(PyObject *where);

/* queue.c */
int queue_push(Queue *queue, PyObject *item); /* steals item, also on error */
PyObject *queue_pop(Queue *queue);            /* NULL: empty */
void queue_clear(Queue *queue);

/* What is said of an object that a fork has taken away from its process. */
#define FORKED                                                                                     \
    "this object was made before fork() and belongs to the parent process; make new channels and " \
    "servers in the child"

/* pump.c */
int pump_type_init(PyObject *module);
/* Raise if the pump was made before a fork. */
int pump_check_fork(Pump *pump);
/* Wait until call_ready(call, mask), `until` (0: for ever) or a signal. 0, 1 on time-out, -1
 * exception. */
int pump_wait(Pump *pump, Call *call, uint32_t mask, uint64_t until);
/* One more open call that nobody may be waiting for; its end. */
void pump_background(Pump *pump, int change);
/* Somebody must look after what no waiter does: wake, or make, a background thread. Whether
 * one will. */
bool pump_kick(Pump *pump);
void pump_dispatch(Pump *pump);
int pump_add_link(Pump *pump, Link *link);
void pump_remove_link(Pump *pump, Link *link);
void pump_push_call(Pump *pump, Call *call);
void pump_push_event(Pump *pump, Call *call);
Call *pump_pop_call(Pump *pump);
/* Call on_event of all calls that have something to tell. */
void pump_run_events(Pump *pump);
int pump_add_deadline(Pump *pump, Call *call);
void pump_remove_deadline(Pump *pump, Call *call);
/* The pool's side of serving; see serve.c. */
bool pump_hold(Pump *pump, void *token);
void pump_release(Pump *pump, void *token);
bool pump_spin_held(Pump *pump, uint64_t budget, void *token);
void waiter_wake(Waiter *waiter);

/* guard.c: event loops that others wait for */
/* An image was lent on a link of an event loop's pump. */
void guard_lent(Link *link);
/* guard(ward, before): the Python method. */
PyObject *guard_add(Pump *guardian, PyObject *args);
/* Look after the wards that are due. Only by the holder of the guardian. */
void guard_run(Pump *guardian);
/* Events of the guardian: are they of wards? By any thread with the GIL. */
void guard_hear(Pump *guardian, const struct zh_event *events, int count);
/* The loop polls its pump. */
void guard_polled(Pump *ward);
/* Let go of all wards. */
void guard_clear(Pump *guardian);

/* link.c */
int link_type_init(PyObject *module);
Link *link_wrap(Pump *pump, struct zh_link *zh, Server *server);
/* Deliver what has arrived. Only by the holder of the pump. */
void link_dispatch(Link *link);
/* (pid, uid, user agent) of the peer: borrowed, or NULL when out of memory. */
PyObject *link_peer(Link *link);
/* Take back loans and credit. Only by the holder of the pump. */
void link_take_returns(Link *link);
void link_on_event(Link *link);
/* Retry what waits for slots, loans or credit. */
void link_unstall(Link *link);
/* May the link's stalled calls be posted now? If not, they will be tried again. */
bool link_may_unstall(Link *link, uint64_t now);
/* A call of the server has ended: those that waited for its place. */
void link_serve_deferred(Link *link);
void link_stall(Link *link, Call *call);
/*
 * A call was given up (+1), or its last record has come (-1). Until then somebody must listen: the
 * server's messages to it are still in the ring, on loan.
 */
void link_gave_up(Link *link, int change);
/* Does the call's outbox wait for credit? */
void link_starve(Link *link, Call *call, bool starved);
/* End a link: its calls get `code` and `why`. */
void link_close(Link *link, int code, const char *why);
/*
 * Post one record of a call; what does not fit inline, or all of it with `spill`, goes into a
 * block. `message`: bytes, a snapshot or NULL; `images`: the peer takes a snapshot as an image,
 * else it becomes wire bytes. 0, or a negative errno (see zh_link_post and zh_link_loan).
 */
int link_post_call(Link *link, struct zh_record *header, const void *metadata, PyObject *message,
                   bool images, uint32_t keep, bool spill);
/* Answer the client's questions about methods' messages, as far as there is room. */
void link_answer(Link *link);
/* Is it a state that returns and freed slots will end? */
bool is_exhaustion(int error);
/* Post a status for a call that has no object (yet). */
void link_refuse_call(Link *link, uint64_t id, int code, const char *details);

/* call.c; call_type.c */
int call_type_init(PyObject *module);
bool call_ready(const Call *call, uint32_t mask);
/* Something happened: wake who waits for it, queue the callback. */
void call_event(Call *call, uint32_t events);
/*
 * Take what a call is about into it. -1 with an exception for arguments that are wrong; the call
 * may be done afterwards (sizes, a deadline that has passed). `message` may be NULL.
 */
int client_prepare(Call *call, PyObject *method, PyObject *message, PyObject *metadata,
                   uint64_t deadline, bool end);
int client_post_start(Call *call); /* 0, -errno */
int call_flush(Call *call);        /* post the outbox and the half-close: 0, -errno */
int call_flush_or_stall(
    Call *call); /* ... later, if there is no room: 0, or an errno that ends it */
/* The client's call is over. `details` is borrowed and may be NULL. */
void client_finish(Call *call, int code, const char *details);
void client_cancel(Call *call, int code, const char *details);
/* Posting gave an errno that is no exhaustion. */
void client_fail(Call *call, int error);
/* The call's user has dropped it: tell the server. For the deallocator: touches no Python object.
 */
void client_abandon(Call *call);
/* The deadline has passed, and with it the time to wait for room. */
void client_expired(Call *call);
/* Start a call that has method, metadata_area, deadline and outbox. */
int client_begin(Call *call, Link *link);
/* Post the status of a server's call; `message` may be NULL. The call is over afterwards. */
void server_finish(Call *call, int code, const char *details, PyObject *trailing,
                   PyObject *message);
/* ... with details that may contain NUL. */
void server_finish_text(Call *call, int code, const char *details, size_t details_bytes,
                        PyObject *trailing, PyObject *message);
/* The client gave up, the deadline passed, the server stops or the link died. */
void server_cancelled(Call *call, int code);
void call_expired(Call *call);
void call_taken(Call *call, PyObject *message); /* grant credit for a message the reader took */

/* serve.c */
int serve_init(void);
void serve_call(Call *call);
PyObject *serve_in_pool(Pump *pump, Call *call, PyObject *may_poll);

/* server.c */
int server_type_init(PyObject *module);
/* Accept again after a lack of descriptors. */
void server_resume(Server *server);
void server_accept(Server *server);
/* The handler of a call has returned; the status has been posted. */
void server_call_retired(Call *call);
/* The call has ended before its handler. */
void server_call_cancelled(Call *call);
void server_call_closed(Call *call);
/* A new call from a client: 0, or a status code with *why. */
int server_admit(Server *server, Link *link, const char **why);

/* client.c */
int client_type_init(PyObject *module);
/* The pump of a Channel; borrowed. */
Pump *channel_pump(PyObject *channel);

#endif
