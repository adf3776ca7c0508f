/* Byte streams (stream.h) over the kernel's TCP.
 *
 * A struct zh_ktcp is what streams and listeners are made from. It writes on what the kernel did
 * not take at once: whoever runs it waits until zh_ktcp_descriptor is readable and then calls
 * zh_ktcp_poll. Nothing here waits, reads a clock or starts a thread; deadlines are the caller's.
 *
 * Threads: one thread at a time calls the functions of a struct zh_ktcp, of its listeners and of
 * its streams; zh_stream_release alone may be called from any.
 *
 * What zh_stream_* is here, where stream.h leaves it to the provider:
 * - The kernel copies what is sent, so a record is released as soon as the kernel has taken all of
 *   it, often inside the zh_stream_send that accepted it: acknowledgement is not waited for.
 * - The queue whose limit zh_stream_send meets is what the kernel has not taken. Only the pieces'
 *   addresses are kept in it, whatever they are the addresses of. -ENOMEM, and nothing accepted,
 *   where there is no memory even for that; the stream has not failed then.
 * - The kernel lays out segments as it likes: a record that fits in a segment may be spread over
 *   two. TCP_NODELAY is set.
 * - Received segments lie in blocks of 64 KiB that the stream fills one after the other. A block is
 *   used again when all that was given out of it has been released. A stream whose unreleased
 *   segments keep `hold_limit` of blocks takes no more (-EAGAIN, no ZH_STREAM_IN) until some are
 *   released, and the kernel's window closes; the descriptor may stay readable meanwhile, so
 *   whoever waits on it, level-triggered, leaves out EPOLLIN for that long.
 * - zh_stream_descriptor is the socket: EPOLLIN for ZH_STREAM_IN, EPOLLOUT while ZH_STREAM_OUT is
 *   waited for. What to do is told by zh_stream_ready, not by the event. It is not to be read,
 *   written or closed; socket options may be set on it.
 * - After zh_stream_close, records that the kernel has not yet taken are kept by the struct
 *   zh_ktcp, which writes them in zh_ktcp_poll and then closes the socket; what the kernel has, it
 *   sends by itself. A peer that makes no progress for a minute (TCP_USER_TIMEOUT, RFC 5482) or
 *   fails ends that. So does data that arrives, and data that was there at the close: the peer gets
 *   a reset, the records are released. SO_LINGER with a time of 0, set on the descriptor, resets at
 *   once. A stream that was cut short ends in a reset, never as if it were whole.
 * - bytes_copied is 0: the copies between these blocks or records and the kernel are the kernel's.
 *
 * IPv4 and IPv6. Functions that return int give 0 or a negative errno. */
#ifndef ZEROHOP_KTCP_H
#define ZEROHOP_KTCP_H

#include <stddef.h>
#include <sys/socket.h>

#include "zerohop/api.h"
#include "zerohop/stream.h"

/* Zeroed: the defaults. */
struct zh_ktcp_config {
    size_t queue_limit; /* of a stream: zh_stream_send accepts while less is queued; 1 MiB */
    size_t hold_limit;  /* of a stream: bytes of blocks with unreleased segments; 4 MiB */
};

struct zh_ktcp;

/* `config` is copied; NULL: the defaults. */
ZH_API int zh_ktcp_create(const struct zh_ktcp_config *config, struct zh_ktcp **ktcp);

/* Its streams and listeners are closed before. What is still being written for closed streams is
 * cut short: call zh_ktcp_poll until it returns 0 for an orderly end. Segments stay valid until
 * they are released. */
ZH_API void zh_ktcp_destroy(struct zh_ktcp *ktcp);

/* Write what can be written. Returns how many closed streams still have records to be written. */
ZH_API unsigned zh_ktcp_poll(struct zh_ktcp *ktcp);

/* Readable when zh_ktcp_poll has something to do; for poll(2) and epoll(7), nothing else. */
ZH_API int zh_ktcp_descriptor(const struct zh_ktcp *ktcp);

struct zh_ktcp_listener;

/* An IPv6 listener takes IPv6 connections only. `backlog` as in listen(2); 0: what the system
 * allows. */
ZH_API int zh_ktcp_listen(struct zh_ktcp *ktcp, const struct sockaddr *address, socklen_t length,
                          int backlog, struct zh_ktcp_listener **listener);

/* Where it listens: the port, if 0 was asked for. */
ZH_API int zh_ktcp_listener_address(const struct zh_ktcp_listener *listener,
                                    struct sockaddr_storage *address);

/* Readable when a connection can be accepted. */
ZH_API int zh_ktcp_listener_descriptor(const struct zh_ktcp_listener *listener);

/* The next connection; -EAGAIN: none waits. After -EMFILE, -ENFILE, -ENOBUFS or -ENOMEM the
 * connection still waits, and the descriptor stays readable. */
ZH_API int zh_ktcp_accept(struct zh_ktcp_listener *listener, struct zh_stream **stream);

ZH_API void zh_ktcp_listener_close(struct zh_ktcp_listener *listener);

/* Begin to connect. Until the connection is established or has failed, zh_stream_ready gives
 * nothing, zh_stream_send and zh_stream_take give -EAGAIN, and the descriptor is waited on for
 * EPOLLOUT; then zh_stream_ready gives ZH_STREAM_OUT, or ZH_STREAM_ERR and every call the error.
 * zh_stream_close gives up. */
ZH_API int zh_ktcp_connect(struct zh_ktcp *ktcp, const struct sockaddr *address, socklen_t length,
                           struct zh_stream **stream);

#endif
