/* Messages on a socket: descriptors pass, and no malformed message leaves one behind. */
#include "shm/message.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "zerohop/ring.h"

static int sockets[2], devnull, base_fds;

/* As zh_message_send, but of as many descriptors as wanted. */
static void send_raw(const void *bytes, size_t size, int count)
{
    static char control[CMSG_SPACE(253 * sizeof(int))];
    struct iovec iov = {(void *)(uintptr_t)bytes, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (count > 0) {
        memset(control, 0, sizeof(control));
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        for (int i = 0; i < count; i++)
            memcpy(CMSG_DATA(cmsg) + (size_t)i * sizeof(int), &devnull, sizeof(int));
    }
    CHECK_EQ(sendmsg(sockets[0], &msg, 0), size);
}

static const struct zh_segment_message small = {
    .magic = ZH_LINK_MAGIC, .version = ZH_LINK_VERSION, .kind = ZH_MSG_SEGMENT, .bytes = 42};

static void refused(const void *bytes, size_t size, int count)
{
    struct zh_message message;

    send_raw(bytes, size, count);
    CHECK_EQ(zh_message_receive(sockets[1], &message), -EPROTO);
    CHECK_EQ(message.fd_count, 0);
    CHECK_EQ(count_fds(), base_fds);
}

static void passing(void)
{
    static struct zh_hello hello = {.magic = ZH_LINK_MAGIC, .kind = ZH_MSG_HELLO, .agent = "agent"};
    struct zh_message message;
    int fds[ZH_MESSAGE_FDS];

    CHECK_EQ(zh_message_receive(sockets[1], &message), -EAGAIN);
    for (int count = 0; count <= ZH_MESSAGE_FDS; count++) {
        for (int i = 0; i < count; i++)
            fds[i] = devnull;
        CHECK_EQ(zh_message_send(sockets[0], &hello, sizeof(hello), fds, count), 0);
        CHECK_EQ(zh_message_receive(sockets[1], &message), 1);
        CHECK_EQ(message.bytes, sizeof(hello));
        CHECK(memcmp(&message.hello, &hello, sizeof(hello)) == 0);
        CHECK_EQ(message.fd_count, count);
        for (int i = 0; i < count; i++)
            CHECK((fcntl(message.fds[i], F_GETFD) & FD_CLOEXEC) != 0);
        CHECK_EQ(count_fds(), base_fds + count);
        zh_message_close_fds(&message);
        CHECK_EQ(count_fds(), base_fds);
    }
    CHECK_EQ(zh_message_send(sockets[0], &small, sizeof(small), NULL, 0), 0);
    CHECK_EQ(zh_message_receive(sockets[1], &message), 1);
    CHECK_EQ(message.segment.bytes, 42);
    CHECK_EQ(message.bytes, sizeof(small));
}

static void malformed(void)
{
    static char large[sizeof(struct zh_hello) + 1];
    struct zh_segment_message other = small;
    struct zh_message message;

    memcpy(large, &small, sizeof(small));
    for (int count = 0; count <= 3; count++) {
        refused(large, sizeof(large), count);      /* cut */
        refused(&small, sizeof(small) - 1, count); /* short */
        refused(&small, 1, count);
        other.magic ^= 1;
        refused(&other, sizeof(other), count);
        other.magic ^= 1;
    }
    refused(&small, sizeof(small), ZH_MESSAGE_FDS + 1);
    refused(&small, sizeof(small), 253);
    refused(large, sizeof(large), 253);
    refused("", 0, 1); /* empty, but not the end */

    /* A process that has no room for the descriptors: they are lost, nothing else. */
    struct rlimit old, less;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    less = (struct rlimit){(rlim_t)sockets[1] + 2, old.rlim_max};
    send_raw(&small, sizeof(small), 3);
    CHECK(setrlimit(RLIMIT_NOFILE, &less) == 0);
    CHECK_EQ(zh_message_receive(sockets[1], &message), -EPROTO);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK_EQ(count_fds(), base_fds);
}

static void ends(void)
{
    struct zh_message message;
    int sent = 0, error;

    /* A peer that does not read: an error, at once. */
    while ((error = zh_message_send(sockets[0], &small, sizeof(small), NULL, 0)) == 0)
        CHECK(++sent < 100000);
    CHECK_EQ(error, -EAGAIN);
    CHECK(sent > 10);
    for (; sent > 0; sent--)
        CHECK_EQ(zh_message_receive(sockets[1], &message), 1);
    CHECK_EQ(zh_message_receive(sockets[1], &message), -EAGAIN);

    /* What was sent before the end comes before the end. */
    CHECK_EQ(zh_message_send(sockets[0], &small, sizeof(small), &devnull, 1), 0);
    CHECK(shutdown(sockets[0], SHUT_WR) == 0);
    CHECK_EQ(zh_message_receive(sockets[1], &message), 1);
    zh_message_close_fds(&message);
    CHECK_EQ(zh_message_receive(sockets[1], &message), 0);
    CHECK_EQ(zh_message_receive(sockets[1], &message), 0);
    close(sockets[1]);
    CHECK_EQ(zh_message_send(sockets[0], &small, sizeof(small), NULL, 0), -EPIPE); /* no SIGPIPE */
    close(sockets[0]);
}

int main(void)
{
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
    devnull = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(devnull >= 0);
    base_fds = count_fds();
    passing();
    malformed();
    ends();
    CHECK_EQ(count_fds(), base_fds - 2);
    return 0;
}
