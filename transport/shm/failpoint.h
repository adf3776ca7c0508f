/*
 * Failpoints: named places at which a test kills or stops the process. Compiled into test builds
 * only
 * (-Dfailpoints=true); ZEROHOP_FAILPOINT="name:action[:nth]" arms one, action being kill, stop or
 * exit.
 */
#ifndef ZEROHOP_SHM_FAILPOINT_H
#define ZEROHOP_SHM_FAILPOINT_H

#define ZH_FAILPOINTS_LIST(X)                                                                      \
    X(segment_created)                                                                             \
    X(mapping_opened)                                                                              \
    X(connect_socket)                                                                              \
    X(connect_hello_sent)                                                                          \
    X(connect_ready)                                                                               \
    X(accept_socket)                                                                               \
    X(accept_hello_read)                                                                           \
    X(accept_reply_sent)                                                                           \
    X(post_record_stored)                                                                          \
    X(post_head_released)                                                                          \
    X(post_bell_rung)                                                                              \
    X(wait_epoch_odd)                                                                              \
    X(wait_slept)                                                                                  \
    X(deliver_header_copied)                                                                       \
    X(deliver_tail_released)                                                                       \
    X(loan_entered)                                                                                \
    X(loan_segment_sent)                                                                           \
    X(share_segment_sent)                                                                          \
    X(return_entry_stored)                                                                         \
    X(return_head_released)                                                                        \
    X(return_taken)                                                                                \
    X(close_socket_shut)                                                                           \
    X(close_unmapped)

enum zh_failpoint {
#define ZH_FAILPOINT_ENUM(name) ZH_FAILPOINT_##name,
    ZH_FAILPOINTS_LIST(ZH_FAILPOINT_ENUM)
#undef ZH_FAILPOINT_ENUM
        ZH_FAILPOINT_COUNT
};

#ifdef ZH_FAILPOINTS
void zh_failpoint_hit(enum zh_failpoint point);
#define ZH_FAILPOINT(name) zh_failpoint_hit(ZH_FAILPOINT_##name)
#else
#define ZH_FAILPOINT(name) ((void)0)
#endif

#endif
