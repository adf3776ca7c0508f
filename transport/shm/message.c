/* Messages on a link's socket. */
#include "message.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "zerohop/ring.h"

/* SCM_MAX_FD: more descriptors the kernel does not pass in one message. */
#define KERNEL_FDS 253

int zh_message_send(int socket, const void *bytes, size_t size, const int *fds, int count)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(ZH_MESSAGE_FDS * sizeof(int))];
    } control;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    memset(&control, 0, sizeof(control));
    if (count > 0) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, (size_t)count * sizeof(int));
    }
    for (;;) {
        if (sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return -errno;
    }
}

int zh_message_receive(int socket, struct zh_message *message)
{
    struct iovec iov = {.iov_base = message, .iov_len = sizeof(struct zh_hello)};
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(KERNEL_FDS * sizeof(int))];
    } control;
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n;

    memset(message, 0, sizeof(*message));
    do {
        n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;

    int result = 1;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg != NULL; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
            if (message->fd_count < ZH_MESSAGE_FDS) {
                message->fds[message->fd_count++] = fd;
            } else {
                close(fd);
                result = -EPROTO;
            }
        }
    }
    message->bytes = (size_t)n;
    if (n == 0 && message->fd_count == 0)
        return 0;
    if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ||
        (size_t)n < sizeof(struct zh_segment_message) || message->hello.magic != ZH_LINK_MAGIC)
        result = -EPROTO;
    if (result < 0)
        zh_message_close_fds(message);
    return result;
}

void zh_message_close_fds(struct zh_message *message)
{
    for (int i = 0; i < message->fd_count; i++)
        close(message->fds[i]);
    message->fd_count = 0;
}
