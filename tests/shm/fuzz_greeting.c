/*
 * Fuzz the socket of an accepted link: the hello, and the messages after it, with descriptors.
 *
 * Input: messages one after another, each `struct part` and as many bytes. Bit 0 of `how` puts the
 * current time into a hello, as no fuzzer can know it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "fuzz.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "shm/pump_internal.h"
#include "zerohop/fork.h"

struct part {
    uint8_t how;
    uint8_t count;  /* of descriptors */
    uint8_t fds[4]; /* which: an index into `stock`; the fourth stands for all further ones */
    uint16_t bytes;
};

enum { STOCK = 10 };
static int stock[STOCK];

static int memfd(size_t size, int seals, bool commit)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK((commit ? fallocate(fd, 0, 0, (off_t)size) : ftruncate(fd, (off_t)size)) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

static void make_stock(void)
{
    const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | 0x10 /* F_SEAL_FUTURE_WRITE */;
    int pipes[2];

    CHECK(pipe2(pipes, O_CLOEXEC) == 0);
    close(pipes[0]);
    stock[0] = memfd(sizeof(struct zh_side), seals, true);
    stock[1] = memfd(4096, seals, true);
    stock[2] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    stock[3] = pipes[1];
    stock[4] = open("/dev/null", O_RDWR | O_CLOEXEC);
    stock[5] = memfd(sizeof(struct zh_side), 0, true);
    stock[6] = memfd(sizeof(struct zh_side), seals, false);
    stock[7] = memfd(8192, seals, true);
    stock[8] = memfd(1 << 20, seals, true);
    stock[9] = eventfd(0, EFD_CLOEXEC);
}

static void send_part(int socket, const struct part *part, const uint8_t *bytes, size_t size)
{
    static char control[CMSG_SPACE(253 * sizeof(int))];
    struct zh_hello hello;
    struct iovec iov = {(void *)(uintptr_t)bytes, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    size_t count = part->count <= 253 ? part->count : 253;

    if ((part->how & 1) != 0 && size == sizeof(hello)) {
        memcpy(&hello, bytes, sizeof(hello));
        hello.clock = zh_now();
        iov.iov_base = &hello;
    }
    if (count > 0) {
        memset(control, 0, sizeof(control));
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (size_t i = 0; i < count; i++)
            memcpy(CMSG_DATA(cmsg) + i * sizeof(int), &stock[part->fds[i < 3 ? i : 3] % STOCK],
                   sizeof(int));
    }
    (void)!sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct zh_pump *pump;
    static int runs;
    struct zh_link_options options = {.agent = "fuzz"};
    struct zh_received r;
    struct zh_return credit;
    struct part part;
    int sockets[2], error;

    if (pump == NULL) {
        make_stock();
        pump = new_pump();
    }
    bool count = runs++ % 16 == 0;
    int fds = count ? count_fds() : 0;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sockets) == 0);
    /* As zh_link_accept makes it, of a client that is this process. */
    struct zh_link *link = zh_link_new(pump, sockets[0], false, &options, &error);
    CHECK(link != NULL);
    link->pid = getpid();
    link->uid = geteuid();
    link->greeted_by = zh_now() + SECONDS(10);
    link->key = zh_pump_add(pump, link, link->socket, -1, -1);
    CHECK(link->key != 0);
    link->detached = false;

    for (int messages = 0; size >= sizeof(part) && messages < 64; messages++) {
        memcpy(&part, data, sizeof(part));
        data += sizeof(part);
        size -= sizeof(part);
        size_t bytes = part.bytes < size ? part.bytes : size;
        send_part(sockets[1], &part, data, bytes);
        data += bytes;
        size -= bytes;
        if ((part.how & 2) != 0)
            zh_link_serve(link);
    }
    if (size > 0)
        shutdown(sockets[1], SHUT_WR);
    for (int i = 0; i < 5; i++)
        zh_link_serve(link);
    if (zh_link_state(link) == ZH_LINK_OPEN) {
        struct zh_record header = {.kind = ZH_STATUS};
        CHECK_EQ(zh_link_next(link, &r), 0);
        CHECK_EQ(zh_link_next_return(link, &credit), 0);
        CHECK_EQ(zh_link_post(link, &header, NULL, NULL, NULL, 0), 0);
        zh_link_ring(link);
    }
    struct zh_link_info info;
    zh_link_info(link, &info);
    CHECK((info.error[0] != '\0') == (info.state == ZH_LINK_DEAD));
    CHECK(strnlen(info.error, 256) < 256 && strnlen(info.agent, ZH_AGENT_BYTES) < ZH_AGENT_BYTES);
    zh_link_close(link, "end");
    zh_link_unref(link);
    close(sockets[1]);
    settle(pump, 0);
    if (count) {
        CHECK_EQ(count_fds(), fds);
        CHECK_EQ(count_maps("memfd:fuzz"), 0);
    }
    return 0;
}
