#include "hostile.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "shm/pump_internal.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static const uint8_t junk[1000];

static void become(const struct attack *a)
{
    if (a->uid != 0)
        CHECK(setgid(a->uid) == 0 && setuid(a->uid) == 0);
}

static uint64_t below(uint64_t *random, uint64_t n)
{
    return (random_next(random) >> 11) % n;
}

/* A number as an attacker chooses it: small, at a limit, near a power of two, or anything. */
static uint64_t odd_number(uint64_t *random)
{
    uint64_t r = random_next(random);

    switch (below(random, 6)) {
    case 0:
        return r % 8;
    case 1:
        return r % 5000;
    case 2:
        return (UINT64_C(1) << (r % 64)) - 2 + below(random, 4);
    case 3:
        return UINT64_MAX - r % 4;
    case 4:
        return r % (4 << 20);
    default:
        return r;
    }
}

static struct zh_link *greet(struct zh_pump *pump, const char *path)
{
    uint32_t any[] = {0, 54321, 54322};
    struct zh_link_options options = {
        .agent = "hostile/1", .allow_uids = any, .allow_uids_count = 3};
    char why[256];
    int error;

    return zh_link_connect(pump, path, &options, (int64_t)SECONDS(2), &error, why, sizeof(why));
}

/* --- memory --- */

static void wrong_record(struct zh_link *link, uint64_t *random)
{
    struct zh_side *own = zh_link_own(link);
    uint64_t at = below(random, 2) == 0 ? link->head % ZH_RING_SLOTS : below(random, ZH_RING_SLOTS);
    struct zh_record record = {
        .kind = (uint8_t)(below(random, 8) == 0 ? odd_number(random) : below(random, ZH_KIND_END)),
        .slots = (uint8_t)(below(random, 8) == 0 ? odd_number(random) : 1 + below(random, 4)),
        .flags = (uint16_t)(below(random, 8) == 0 ? odd_number(random) : below(random, 512)),
        .call = random_next(random),
        .metadata_bytes = (uint32_t)odd_number(random),
        .segment = (uint32_t)(below(random, 4) == 0 ? odd_number(random) : below(random, 4)),
        .message_bytes = odd_number(random),
        .page = (uint32_t)odd_number(random),
        .loan = (uint32_t)(below(random, 4) == 0 ? odd_number(random) : below(random, 64)),
        .loan_generation = (uint32_t)(odd_number(random) | 1),
    };
    memcpy(own->slots + at * ZH_SLOT, &record, sizeof(record));
}

void scribble(struct zh_link *link, uint64_t *random)
{
    struct zh_side *own = zh_link_own(link);
    uint64_t r = random_next(random);

    switch (below(random, 14)) {
    case 0:
        ((uint8_t *)own)[r % sizeof(*own)] = (uint8_t)(r >> 32);
        break;
    case 1:
        memset((uint8_t *)own + r % (sizeof(*own) - 512), (int)(r >> 32), 512);
        break;
    case 2:
        atomic_store(&own->head, atomic_load(&own->head) + below(random, 8));
        break;
    case 3:
        atomic_store(&own->head, below(random, 8) == 0 ? odd_number(random) : link->head);
        break;
    case 4:
        atomic_store(&own->tail, below(random, 8) == 0
                                     ? odd_number(random)
                                     : zh_link_peer(link)->head - below(random, 3));
        break;
    case 5:
        atomic_store(&own->return_head, atomic_load(&own->return_head) + below(random, 4));
        break;
    case 6:
        if (below(random, 8) == 0)
            atomic_store(&own->return_tail, odd_number(random));
        break;
    case 7:
        atomic_store(&own->want, (uint32_t)r);
        break;
    case 8: {
        struct zh_return entry = {(uint32_t)below(random, 4), (uint32_t)odd_number(random),
                                  odd_number(random)};
        own->returns[r % ZH_RETURN_ENTRIES] = entry;
        break;
    }
    case 9:
        /* The epoch: a page of the pump, which every link of this process shows. */
        *(uint32_t *)(void *)zh_pump_page_segment(link->pump)->base = (uint32_t)r;
        break;
    default:
        wrong_record(link, random);
    }
}

struct scribbler {
    struct zh_link *link;
    uint64_t random;
    _Atomic bool stop;
};

static void *scribble_on(void *arg)
{
    struct scribbler *s = arg;
    while (!s->stop)
        scribble(s->link, &s->random);
    return NULL;
}

int attack_memory(void *arg)
{
    const struct attack *a = arg;
    uint64_t random = a->seed;
    struct zh_received r;
    pthread_t thread;
    int greeted = 0;

    become(a);
    struct zh_pump *pump = new_pump();
    while (zh_now() < a->until) {
        struct zh_link *link = greet(pump, a->path);
        if (link == NULL)
            continue;
        greeted++;
        struct scribbler s = {.link = link, .random = random_next(&random)};
        CHECK(pthread_create(&thread, NULL, scribble_on, &s) == 0);
        /* What is in order and what is not, mixed; the records' bytes change while they are read.
         */
        for (uint64_t round = 1 + below(&random, 400); round > 0; round--) {
            (void)post_bytes(link, ZH_CALL, round, junk, below(&random, sizeof(junk)));
            (void)post_loan(link, ZH_CALL, round, 1 + below(&random, 300000), 1);
            if (zh_link_next(link, &r) == 1) {
                if (r.loaned)
                    zh_link_give_back(link, &r);
                zh_link_consume(link, &r);
            }
            zh_link_serve(link);
            zh_link_ring(link);
            if (zh_link_state(link) == ZH_LINK_DEAD)
                break;
        }
        s.stop = true;
        CHECK(pthread_join(thread, NULL) == 0);
        drop_link(&link);
        settle(pump, 0);
    }
    return greeted > 5 ? 0 : 1;
}

/* --- greetings --- */

static int memfd_with(size_t size, int seals, bool commit)
{
    int fd = memfd_create("hostile", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (commit) {
        /* As a side: one record, which will be answered. As a pump's page: asleep. */
        const uint64_t one = 1;
        const struct zh_record record = {.kind = ZH_CALL, .slots = 1};
        (void)!fallocate(fd, 0, 0, (off_t)size);
        (void)!pwrite(fd, &one, sizeof(one), 0);
        if (size == sizeof(struct zh_side))
            (void)!pwrite(fd, &record, sizeof(record), offsetof(struct zh_side, slots));
    } else {
        (void)!ftruncate(fd, (off_t)size);
    }
    (void)fcntl(fd, F_ADD_SEALS, seals);
    return fd;
}

/* Whoever writes there gets SIGPIPE. */
static int deaf_pipe(void)
{
    int pipes[2];

    if (pipe2(pipes, O_CLOEXEC) != 0)
        return -1;
    close(pipes[0]);
    return pipes[1];
}

/* A descriptor where a sealed memfd of `size` is expected; often one. */
static int wrong_fd(size_t size, uint64_t *random)
{
    const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;

    switch (below(random, 20)) {
    case 0:
        return memfd_with(size, seals & (int)random_next(random), true);
    case 1:
        return memfd_with(size, seals, false);
    case 2:
        return memfd_with(size - 4096, seals, true);
    case 3:
        return memfd_with(size + 4096, seals, true);
    case 4:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 5:
        return deaf_pipe();
    case 6:
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 7:
        return eventfd(0, EFD_CLOEXEC);
    default:
        return memfd_with(size, seals, true);
    }
}

static void send_fds(int socket, const void *bytes, size_t size, const int *fds, int count)
{
    char control[CMSG_SPACE(200 * sizeof(int))];
    struct iovec iov = {(void *)(uintptr_t)bytes, size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    memset(control, 0, sizeof(control));
    if (count > 0) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, (size_t)count * sizeof(int));
    }
    (void)!sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void send_wrong_greeting(int socket, uint32_t kind, uint64_t *random)
{
    struct zh_hello hello[2] = {{
        .magic = ZH_LINK_MAGIC,
        .version = ZH_LINK_VERSION,
        .kind = kind,
        .clock = zh_now(),
        .side_bytes = sizeof(struct zh_side),
        .slot_bytes = ZH_SLOT,
        .ring_slots = ZH_RING_SLOTS,
        .has_bell = (uint32_t)below(random, 2),
    }};
    size_t size = sizeof(hello[0]);
    int fds[200], count = hello->has_bell ? 3 : 2, made = 3;

    memset(hello->agent, 'A', sizeof(hello->agent)); /* and no end to it */
    fds[0] = wrong_fd(sizeof(struct zh_side), random);
    fds[1] = wrong_fd(sizeof(struct zh_pump_page), random);
    fds[2] = below(random, 2) == 0   ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
             : below(random, 2) == 0 ? deaf_pipe()
                                     : wrong_fd(4096, random);
    switch (below(random, 12)) {
    case 0:
        count = (int)below(random, 4);
        break;
    case 1:
        count = 4 + (int)below(random, 190);
        break;
    case 2:
        size = below(random, 2 * sizeof(hello[0]));
        break;
    case 3:
        ((uint8_t *)hello)[below(random, 56)] ^= (uint8_t)(1u << below(random, 8));
        break;
    case 4:
        hello->has_bell = (uint32_t)random_next(random);
        break;
    case 5: {
        int swap = fds[0];
        fds[0] = fds[1];
        fds[1] = swap;
        break;
    }
    }
    for (int i = 0; i < 3; i++) {
        if (fds[i] < 0)
            fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    for (int i = 3; i < count; i++)
        fds[i] = fds[i % 3];
    send_fds(socket, hello, size, fds, count);
    for (int i = 0; i < made; i++)
        close(fds[i]);
}

void send_wrong_message(int socket, uint64_t *random)
{
    struct zh_segment_message m = {
        .magic = ZH_LINK_MAGIC,
        .version = ZH_LINK_VERSION,
        .kind = (uint32_t)below(random, 8),
        .bytes = below(random, 4) == 0 ? odd_number(random) : 8192,
        .id = (uint32_t)(below(random, 4) == 0 ? odd_number(random) : below(random, 200)),
    };
    int fd = wrong_fd(8192, random);
    int fds[] = {fd, fd, fd, fd};

    if (below(random, 16) == 0)
        m.magic = random_next(random);
    send_fds(socket, &m, below(random, 16) == 0 ? below(random, sizeof(m) + 1) : sizeof(m), fds,
             fd < 0                     ? 0
             : below(random, 4) == 0    ? (int)below(random, 5)
             : m.kind == ZH_MSG_SEGMENT ? 1
                                        : 0);
    if (fd >= 0)
        close(fd);
}

static int raw_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    strcpy(address.sun_path, path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

int attack_greeting(void *arg)
{
    const struct attack *a = arg;
    uint64_t random = a->seed;

    become(a);
    while (zh_now() < a->until) {
        int fd = raw_connect(a->path);
        if (fd < 0) {
            sleep_ns(MS(1));
            continue;
        }
        for (uint64_t n = below(&random, 3); n > 0; n--)
            send_wrong_greeting(fd, ZH_MSG_HELLO, &random);
        /* In half of them the answer is read, and the link goes on from there. */
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        struct zh_message message;
        if (below(&random, 2) == 0 && poll(&readable, 1, 20) == 1 &&
            zh_message_receive(fd, &message) == 1) {
            for (uint64_t n = below(&random, 300); n > 0; n--)
                send_wrong_message(fd, &random);
            zh_message_close_fds(&message);
        }
        if (below(&random, 2) == 0)
            shutdown(fd, (int)below(&random, 3));
        close(fd);
    }
    return 0;
}

/* --- loans --- */

int attack_loans(void *arg)
{
    const struct attack *a = arg;
    uint64_t random = a->seed;
    struct zh_received r;

    become(a);
    struct zh_pump *pump = new_pump();
    while (zh_now() < a->until) {
        struct zh_link *link = greet(pump, a->path);
        if (link == NULL)
            continue;
        uint64_t manners = below(&random, 5), until = zh_now() + MS(below(&random, 200));
        while (zh_link_state(link) == ZH_LINK_OPEN && zh_now() < until) {
            (void)post_bytes(link, ZH_CALL, 1, junk, 100); /* each is answered with a loan */
            if (manners == 4)
                continue; /* reads nothing, ever */
            zh_link_serve(link);
            if (zh_link_next(link, &r) != 1)
                continue;
            if (manners == 1 || manners == 2)
                zh_link_give_back(link, &r);
            if (manners == 2)
                zh_link_give_back(link, &r);
            if (manners == 3) { /* the next one, before it comes */
                r.header.loan += 1;
                zh_link_give_back(link, &r);
            }
            zh_link_consume(link, &r);
            zh_link_flush(link);
        }
        if (below(&random, 2) == 0)
            shutdown(link->socket, SHUT_WR); /* ends, and stays */
        sleep_ns(MS(below(&random, 20)));
        drop_link(&link);
        settle(pump, 0);
    }
    return 0;
}

/* --- images --- */

/* Roots that refer to blocks of several segments, which are dropped, written to and sent again
 * while the peer holds them. */
int attack_images(void *arg)
{
    const struct attack *a = arg;
    uint64_t random = a->seed;
    struct zh_received r;

    become(a);
    struct zh_pump *pump = new_pump();
    while (zh_now() < a->until) {
        struct zh_link *link = greet(pump, a->path);
        if (link == NULL)
            continue;
        bool drops = below(&random, 2) == 0;
        for (uint64_t round = below(&random, 300); round > 0 && zh_link_state(link) == ZH_LINK_OPEN;
             round--) {
            struct zh_block blocks[4];
            uint32_t count = 1 + (uint32_t)below(&random, 4), made = 0;
            struct zh_loaned loaned;
            uint64_t root[8];
            while (made < count && zh_arena_alloc(link->arena, 1 + below(&random, 3 << 20), true,
                                                  &blocks[made]) == 0)
                made++;
            for (int i = 0; i < 8; i++) {
                const struct zh_block *block = &blocks[made > 0 ? below(&random, made) : 0];
                root[i] = made == 0 || below(&random, 3) == 0
                              ? odd_number(&random)
                              : (uint64_t)block->segment << 36 | (uint64_t)block->page * ZH_PAGE;
            }
            struct zh_record header = {.kind = ZH_CALL,
                                       .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED |
                                                (below(&random, 4) == 0 ? ZH_LENT_BACK : 0),
                                       .call = round,
                                       .message_bytes = sizeof(root),
                                       .outside = (uint32_t)odd_number(&random)};
            if (made > 0 && zh_link_lend(link, blocks, made, 0, NULL, &loaned) == 0) {
                if (below(&random, 8) == 0)
                    loaned.loan.id = (uint32_t)below(&random, ZH_LOANS);
                if (zh_link_post(link, &header, NULL, root, &loaned, 0) != 0)
                    zh_link_unloan(link, &loaned);
            }
            for (uint32_t i = 0; i < made; i++) {
                blocks[i].data[0]++;
                struct zh_segment_message m = {.magic = ZH_LINK_MAGIC,
                                               .version = ZH_LINK_VERSION,
                                               .kind = below(&random, 16) == 0 ? ZH_MSG_LEAVING
                                                                               : ZH_MSG_DROPPED,
                                               .id = blocks[i].segment};
                if (drops && below(&random, 8) == 0)
                    send_fds(link->socket, &m, sizeof(m), NULL, 0);
                (void)zh_arena_unref(link->arena, blocks[i].segment, blocks[i].page);
            }
            zh_link_serve(link);
            while (zh_link_next(link, &r) == 1) {
                if (r.loaned)
                    zh_link_give_back(link, &r);
                zh_link_consume(link, &r);
            }
            zh_link_flush(link);
            struct zh_return credit;
            while (zh_link_next_return(link, &credit) == 1)
                ;
        }
        drop_link(&link);
        settle(pump, 0);
    }
    return 0;
}

/* --- bells and silence --- */

int attack_bells(void *arg)
{
    const struct attack *a = arg;
    uint64_t random = a->seed;
    int silent[100];

    become(a);
    struct zh_pump *pump = new_pump();
    for (int i = 0; i < 100; i++)
        silent[i] = raw_connect(a->path);
    while (zh_now() < a->until) {
        struct zh_link *link = greet(pump, a->path);
        if (link == NULL)
            continue;
        for (int i = 0; i < 200 && zh_link_state(link) == ZH_LINK_OPEN; i++) {
            uint64_t most = UINT64_MAX - 1, value;
            /* Full, drained, and full again: the descriptor is shared, and so is its state. */
            if (link->bell >= 0 && below(&random, 2) == 0) {
                (void)!write(link->bell, &most, 8);
                (void)!write(link->peer_bell, &most, 8);
            } else if (link->bell >= 0) {
                (void)!read(link->bell, &value, 8);
                (void)!read(link->peer_bell, &value, 8);
            }
            /* Our end of the socket, blocking or not, unread and full. */
            int flags = fcntl(link->socket, F_GETFL);
            (void)fcntl(link->socket, F_SETFL,
                        below(&random, 2) == 0 ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
            for (int n = 0; n < 50; n++)
                zh_link_ring(link);
            (void)post_bytes(link, ZH_CALL, 1, &random, 8);
            *(uint32_t *)(void *)zh_pump_page_segment(pump)->base += 1;
            if (below(&random, 4) == 0) {
                int raw = raw_connect(a->path);
                if (raw >= 0 && below(&random, 2) == 0)
                    close(raw);
                else if (silent[i % 100] >= 0)
                    close(silent[i % 100]);
                silent[i % 100] = raw;
            }
        }
        drop_link(&link);
        settle(pump, 0);
    }
    return 0;
}
