/*
 * Memory handed on: from its owner (this process) to a process in the middle, and from that to a
 * third and a fourth, none of which copies it. Whoever dies, what is read stays what it is, and
 * everything comes back.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "shm/link_internal.h"
#include "shm/pump_internal.h"
#include "zerohop/image.h"
#include "zerohop/stats.h"

enum { BYTES = 5000, HOPS = 3, FARTHEST = 8 };

/* Where the memory is, as the message of a record says it. */
struct place {
    uint32_t segment;
    uint64_t offset;
};

/* One process of the chain: reads from the one before, and hands on if it is told to. */
struct process {
    pid_t pid;
    int control; /* a byte is a command; the answer is one, too */
};

static const char *path_of(int hop, char *path)
{
    char name[16];
    snprintf(name, sizeof(name), "hop%d", hop);
    return strcpy(path, scratch(name));
}

static void tell(const struct process *process, char command)
{
    char answer = 0;
    CHECK(write(process->control, &command, 1) == 1);
    CHECK(read(process->control, &answer, 1) == 1);
    CHECK(answer == command);
}

static int post_place(struct zh_link *link, uint8_t kind, const struct zh_block *block,
                      struct place place, struct zh_hold *hold)
{
    struct zh_loaned loaned;
    struct zh_record header = {.kind = kind,
                               .flags = ZH_HAS_MESSAGE | ZH_IMAGE | ZH_LOANED,
                               .message_bytes = sizeof(place)};

    int error = zh_link_lend(link, block, block != NULL, 9, hold, &loaned);
    if (error == 0)
        error = zh_link_post(link, &header, NULL, &place, &loaned, 0);
    return error;
}

struct life {
    int hop;
    int control;
    int others; /* the other end, which is its parent's */
};

static void free_holds(void)
{
    struct zh_hold *next;
    for (struct zh_hold *hold = zh_holds_ended(); hold != NULL; hold = next) {
        next = hold->next;
        *(bool *)hold->object = true;
        free(hold);
    }
}

/*
 * Commands: r, there is a record: hold it, look; h, hand it on to the next; o, back to where it
 * came from; x, it is too far to hand it on; l, look again; g, let go (whoever reads it further on
 * has); d, the one before is dead, close; t, the next one is dead; b, break the protocol with the
 * one before.
 */
static int live(void *arg)
{
    const struct life *life = arg;
    struct zh_pump *pump = new_pump(), *next_pump = NULL;
    struct zh_link *link, *next = NULL;
    struct zh_received r;
    struct place place = {0};
    const uint8_t *at = NULL;
    bool returned = true;
    char path[128], command;

    alarm(60);
    close(life->others);
    int listener = listen_at(path_of(life->hop, path));
    CHECK(write(life->control, "!", 1) == 1);
    link = accept_link(pump, listener, NULL, NULL);
    CHECK(link != NULL);
    while (read(life->control, &command, 1) == 1) {
        switch (command) {
        case 'r':
            CHECK_EQ(next_within(pump, link, &r, SECONDS(5)), 1);
            zh_link_hold(link, &r);
            memcpy(&place, r.message, sizeof(place));
            zh_link_consume(link, &r);
            zh_link_flush(link);
            at = zh_link_at(link, place.segment, place.offset, BYTES);
            CHECK(at != NULL);
            break;
        case 'x':
            next_pump = new_pump();
            next = connect_link(next_pump, path_of(life->hop + 1, path));
            CHECK_EQ(zh_link_place(link, at, BYTES, &place.segment, &place.offset), 0);
            CHECK_EQ(zh_link_share(next, place.segment), -ENOENT);
            break;
        case 'h':
        case 'o': {
            struct zh_hold *hold = malloc(sizeof(*hold));
            struct zh_link *to = link;
            if (command == 'h') {
                next_pump = new_pump();
                to = next = connect_link(next_pump, path_of(life->hop + 1, path));
            }
            CHECK_EQ(zh_link_place(link, at, BYTES, &place.segment, &place.offset), 0);
            CHECK_EQ(zh_link_share(to, place.segment), 0);
            hold->object = &returned;
            returned = false;
            CHECK_EQ(post_place(to, command == 'h' ? ZH_CALL : ZH_STATUS, NULL, place, hold), 0);
            break;
        }
        case 'g':
            for (uint64_t until = zh_now() + SECONDS(5); !returned;) {
                struct zh_return credit;
                CHECK(zh_now() < until);
                CHECK_EQ(zh_link_next_return(next != NULL ? next : link, &credit), 0);
                free_holds();
            }
            zh_link_let_go(link, &r);
            break;
        case 'd':
            CHECK(serve_until_dead(pump, link, SECONDS(5)));
            zh_link_close(link, "end");
            break;
        case 't':
            CHECK(serve_until_dead(next_pump, next, SECONDS(5)));
            zh_link_close(next, "end");
            for (uint64_t until = zh_now() + SECONDS(5); !returned; free_holds()) {
                CHECK(zh_now() < until);
                settle(next_pump, MS(1));
            }
            break;
        case 'b': {
            struct zh_segment_message bad = {.magic = ZH_LINK_MAGIC, .kind = 99};
            CHECK_EQ(zh_message_send(link->socket, &bad, sizeof(bad), NULL, 0), 0);
            break;
        }
        default:
            break;
        }
        if (at != NULL && command != 'g')
            CHECK(at[0] == 'v' && at[BYTES - 1] == 'v');
        if (command == 'g')
            at = NULL;
        CHECK(write(life->control, &command, 1) == 1);
    }
    return 0;
}

static void begin(struct process *process, int hop)
{
    static struct life life;
    int ends[2];
    char byte;

    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    life = (struct life){hop, ends[1], ends[0]};
    process->pid = spawn(live, &life);
    process->control = ends[0];
    close(ends[1]);
    CHECK(read(process->control, &byte, 1) == 1 && byte == '!');
}

static struct zh_pump *pump;

static struct zh_arena *arena(void)
{
    return zh_arena_of_uid(geteuid());
}

/* Blocks that were freed would be given out again, and written to. */
static void reuse(void)
{
    struct zh_block next[8];

    for (int i = 0; i < 8; i++) {
        CHECK_EQ(zh_arena_alloc(arena(), BYTES, true, &next[i]), 0);
        memset(next[i].data, 'z', BYTES);
    }
    for (int i = 0; i < 8; i++)
        CHECK_EQ(zh_arena_unref(arena(), next[i].segment, next[i].page), 0);
}

static bool all_back(struct zh_link *link, uint64_t ns)
{
    for (uint64_t until = zh_now() + ns; loans_open(link) > 0 && zh_now() < until;) {
        struct zh_return credit;
        CHECK_EQ(zh_link_next_return(link, &credit), 0);
        settle(pump, MS(1));
    }
    return loans_open(link) == 0;
}

/* The chain with a block on its way through `hops` processes. */
static struct zh_link *chain(struct process *processes, int hops, struct zh_block *block)
{
    char path[128];

    for (int i = 0; i < hops; i++)
        begin(&processes[i], i);
    struct zh_link *link = connect_link(pump, path_of(0, path));
    CHECK_EQ(zh_arena_alloc(arena(), BYTES, true, block), 0);
    memset(block->data, 'v', BYTES);
    struct place place = {block->segment, (uint64_t)block->page * ZH_PAGE};
    CHECK_EQ(post_place(link, ZH_CALL, block, place, NULL), 0);
    CHECK_EQ(zh_arena_unref(arena(), block->segment, block->page), 0); /* the loan has it */
    for (int i = 0; i < hops; i++) {
        tell(&processes[i], 'r');
        if (i + 1 < hops)
            tell(&processes[i], 'h');
    }
    CHECK(!all_back(link, 0));
    return link;
}

static void end(struct process *processes, int hops, struct zh_link *link)
{
    /* The last first: a process has inherited the controls of those before it. */
    for (int i = hops; i-- > 0;) {
        if (processes[i].pid != 0) {
            close(processes[i].control);
            expect_exit(processes[i].pid, 0, SECONDS(10));
        }
    }
    if (link != NULL)
        drop_link(&link);
    settle(pump, MS(1));
    CHECK_EQ(arena_used(), 0);
}

static void die(struct process *process)
{
    kill_child(process->pid);
    close(process->control);
    process->pid = 0;
}

/* Each lets go after the one behind it. */
static void comes_back(int hops)
{
    struct process processes[HOPS];
    struct zh_block block;
    struct zh_link *link = chain(processes, hops, &block);

    reuse();
    for (int i = hops; i-- > 0;) {
        CHECK(!all_back(link, MS(2)));
        for (int j = 0; j <= i; j++)
            tell(&processes[j], 'l');
        tell(&processes[i], 'g');
    }
    CHECK(all_back(link, SECONDS(5)));
    end(processes, hops, link);
}

/* The ones in the middle are killed, in either order, while the last one reads on. */
static void middle_dies(int hops, bool first_first, bool reader_dies)
{
    struct process processes[HOPS], *last = &processes[hops - 1];
    struct zh_block block;
    struct zh_link *link = chain(processes, hops, &block);

    for (int i = 0; i < hops - 1; i++) {
        die(&processes[first_first ? i : hops - 2 - i]);
        if (first_first ? i == 0 : i == hops - 2) {
            CHECK(serve_until_dead(pump, link, SECONDS(5)));
            zh_link_close(link, "end");
        }
        settle(pump, MS(5));
        CHECK(!all_back(link, MS(5)));
        reuse();
        tell(last, 'l');
    }
    tell(last, 'd');
    CHECK(!all_back(link, MS(5)));
    reuse();
    tell(last, 'l');
    if (reader_dies)
        die(last);
    else
        tell(last, 'g');
    CHECK(all_back(link, SECONDS(5)));
    end(processes, hops, link);
}

/* The same where there is no memory to wait for the last one to be done: what it reads stays lent,
 * and comes back when somebody looks. */
static void middle_dies_unwatched(void)
{
    struct process processes[2];
    struct zh_block block;
    struct zh_link *link = chain(processes, 2, &block);

    /* The set has the descriptor already: it cannot be added. */
    CHECK_EQ(zh_pump_watch(pump, link->lifeline, 1), 0);
    die(&processes[0]);
    CHECK(serve_until_dead(pump, link, SECONDS(5)));
    zh_link_close(link, "end");
    settle(pump, MS(5));
    CHECK(!all_back(link, MS(5)));
    reuse();
    tell(&processes[1], 'l');
    CHECK_EQ(zh_pump_unwatch(pump, link->lifeline), 0);
    zh_link_sweep();
    CHECK(!all_back(link, MS(5)));
    reuse();
    tell(&processes[1], 'l');
    tell(&processes[1], 'd');
    tell(&processes[1], 'g');
    zh_link_sweep();
    CHECK(all_back(link, 0));
    end(processes, 2, link);
}

/* The one in the middle breaks the rules, of which the one that reads knows nothing. */
static void middle_errs(void)
{
    struct process processes[2];
    struct zh_block block;
    struct zh_link *link = chain(processes, 2, &block);

    tell(&processes[0], 'b');
    CHECK(serve_until_dead(pump, link, SECONDS(5)));
    CHECK(!all_back(link, MS(5)));
    reuse();
    tell(&processes[1], 'l');
    zh_link_close(link, "end");
    settle(pump, MS(5));
    CHECK(!all_back(link, MS(5)));
    reuse();
    tell(&processes[1], 'l');
    tell(&processes[1], 'g');
    die(&processes[0]);
    tell(&processes[1], 'd');
    CHECK(all_back(link, SECONDS(5)));
    end(processes, 2, link);
}

/* The one that reads is killed: the one before it learns of it, and gives back. */
static void reader_dies(void)
{
    struct process processes[HOPS];
    struct zh_block block;
    struct zh_link *link = chain(processes, 2, &block);

    die(&processes[1]);
    tell(&processes[0], 't');
    CHECK(!all_back(link, MS(2)));
    tell(&processes[0], 'g');
    CHECK(all_back(link, SECONDS(5)));
    end(processes, 2, link);
}

/* Back to its owner, who finds its own block. */
static void goes_home(void)
{
    struct process process;
    struct zh_block block, found;
    struct zh_link *link = chain(&process, 1, &block);
    struct zh_received r;
    struct place place;

    tell(&process, 'o');
    CHECK_EQ(next_within(pump, link, &r, SECONDS(5)), 1);
    zh_link_hold(link, &r);
    memcpy(&place, r.message, sizeof(place));
    zh_link_consume(link, &r);
    CHECK(zh_link_at(link, place.segment, place.offset, BYTES) == NULL);
    CHECK_EQ(zh_link_lent(link, place.segment, place.offset, BYTES, &found), 0);
    CHECK(found.data == block.data && found.page == block.page);
    CHECK_EQ(zh_arena_unref(arena(), found.segment, found.page), 0);
    zh_link_let_go(link, &r);
    zh_link_flush(link);
    tell(&process, 'g');
    CHECK(all_back(link, SECONDS(5)));
    end(&process, 1, link);
}

/* Who hands on too far is told to copy; so is who speaks of what nobody has shown. */
static void limits(void)
{
    struct process processes[FARTHEST + 1];
    struct zh_block block;
    struct zh_link *link = chain(processes, FARTHEST, &block);

    CHECK_EQ(zh_link_share(link, ZH_REF_FOREIGN | 12345), -ENOENT);
    begin(&processes[FARTHEST], FARTHEST);
    tell(&processes[FARTHEST - 1], 'x');
    for (int i = FARTHEST; i-- > 0;)
        tell(&processes[i], 'g');
    CHECK(all_back(link, SECONDS(5)));
    end(processes, FARTHEST + 1, link);
}

int main(void)
{
    scratch("");
    pump = new_pump();
    comes_back(2);
    int fds = count_fds(), maps = count_maps("zerohop-");
    comes_back(2);
    comes_back(HOPS);
    for (int way = 0; way < 4; way++)
        middle_dies(2 + way / 2, true, way % 2 != 0);
    middle_dies(HOPS, false, false);
    middle_dies(HOPS, false, true);
    middle_dies_unwatched();
    middle_errs();
    reader_dies();
    goes_home();
    limits();
    CHECK_EQ(count_fds(), fds);
    CHECK_EQ(count_maps("zerohop-"), maps);
    zh_pump_destroy(pump);
    struct zh_stats_snapshot stats;
    zh_stats_read(&stats);
    CHECK_EQ(stats.blocks_lent, stats.blocks_returned);
    return 0;
}
