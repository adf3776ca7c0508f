#include "stream_harness.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"

/* --- what the tests know ---------------------------------------------------------------------- */

struct stream_provider *suite_provider;
uint64_t suite_news, suite_random_word;
size_t suite_lent_count;

static pthread_t main_thread;
static unsigned inside; /* calls during which records may be released */

void suite_begin(struct stream_provider *which)
{
    suite_provider = which;
    main_thread = pthread_self();
}

uint64_t suite_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t suite_draw(uint64_t below)
{
    suite_random_word += UINT64_C(0x9e3779b97f4a7c15);
    return suite_mix(suite_random_word) % below;
}

static uint8_t byte_at(uint64_t seed, uint64_t offset)
{
    return (uint8_t)(suite_mix(seed + offset / 8) >> offset % 8 * 8);
}

static void fill(uint8_t *data, size_t size, uint64_t seed, uint64_t offset)
{
    for (; size && offset % 8; size--)
        *data++ = byte_at(seed, offset++);
    for (; size >= 8; size -= 8, data += 8, offset += 8) {
        uint64_t word = suite_mix(seed + offset / 8);
        memcpy(data, &word, 8);
    }
    for (; size; size--)
        *data++ = byte_at(seed, offset++);
}

void suite_verify(const uint8_t *data, size_t size, uint64_t seed, uint64_t offset)
{
    for (; size && offset % 8; size--)
        CHECK_EQ(*data++, byte_at(seed, offset++));
    for (; size >= 8; size -= 8, data += 8, offset += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        CHECK(word == suite_mix(seed + offset / 8));
    }
    for (; size; size--)
        CHECK_EQ(*data++, byte_at(seed, offset++));
}

void suite_step(void)
{
    inside++;
    suite_provider->step(suite_provider);
    inside--;
}

/* --- records ---------------------------------------------------------------------------------- */

static struct lent *all_lent;

static void released(void *opaque)
{
    struct lent *lent = opaque;

    CHECK(pthread_equal(pthread_self(), main_thread));
    CHECK(inside == 1);
    CHECK(lent->memory);
    memset(lent->memory, 0xee, lent->size);
    free(lent->memory);
    lent->memory = NULL;
    suite_lent_count--;
    suite_news++;
}

/* The bytes of a stream from `offset` on, in pieces that lie in memory back to front. */
static struct lent *lend(size_t size, unsigned count, uint64_t seed, uint64_t offset)
{
    struct lent *lent = calloc(1, sizeof *lent);
    size_t at = size, left = size;

    CHECK(lent && (count || !size));
    lent->memory = malloc(size ? size : 1);
    lent->pieces = malloc((count ? count : 1) * sizeof *lent->pieces);
    CHECK(lent->memory && lent->pieces);
    lent->size = size;
    lent->count = count;
    for (unsigned i = 0; i < count; i++) {
        size_t most = left / (count - i) * 2 + 1;
        size_t part = i + 1 == count ? left : suite_draw(most < left ? most : left + 1);
        at -= part;
        lent->pieces[i] = (struct iovec){lent->memory + at, part};
        fill(lent->memory + at, part, seed, offset);
        offset += part;
        left -= part;
    }
    lent->next = all_lent;
    all_lent = lent;
    suite_lent_count++;
    return lent;
}

void suite_settle(void)
{
    UNTIL(!suite_lent_count);
    for (struct lent *lent = all_lent, *next; lent; lent = next) {
        next = lent->next;
        free(lent);
    }
    all_lent = NULL;
}

/* --- streams ---------------------------------------------------------------------------------- */

unsigned suite_ready(struct zh_stream *stream)
{
    inside++;
    unsigned events = zh_stream_ready(stream);
    inside--;
    return events;
}

int send_records(struct zh_stream *stream, const struct zh_stream_record *records, unsigned count)
{
    inside++;
    int result = zh_stream_send(stream, records, count);
    inside--;
    return result;
}

int suite_take(struct zh_stream *stream, struct zh_stream_segment *segments, unsigned count)
{
    inside++;
    int result = zh_stream_take(stream, segments, count);
    inside--;
    CHECK(result <= (int)count);
    return result;
}

int suite_shut(struct zh_stream *stream)
{
    inside++;
    int result = zh_stream_shutdown(stream);
    inside--;
    return result;
}

void close_end(struct zh_stream *stream)
{
    inside++;
    zh_stream_close(stream);
    inside--;
    suite_news++;
}

void vanish(struct zh_stream *stream)
{
    inside++;
    suite_provider->vanish(suite_provider, stream);
    inside--;
    suite_news++;
}

struct zh_stream_info suite_info(struct zh_stream *stream)
{
    struct zh_stream_info now;

    memset(&now, 0xee, sizeof now);
    inside++;
    zh_stream_info(stream, &now);
    inside--;
    return now;
}

struct pair open_pair(void)
{
    struct pair pair = {0};

    suite_provider->pair(suite_provider, pair.ends);
    for (int i = 0; i < 2; i++) {
        CHECK(pair.ends[i]);
        CHECK(zh_stream_descriptor(pair.ends[i]) >= -1);
        pair.flows[i] = (struct flow){.from = pair.ends[i],
                                      .to = pair.ends[!i],
                                      .seed = suite_mix(suite_random_word + (uint64_t)i)};
    }
    return pair;
}

void suite_offer(struct flow *flow, size_t size, unsigned pieces)
{
    CHECK(flow->offered_count < OFFERED);
    flow->offered[flow->offered_count++] = lend(size, pieces, flow->seed, flow->made);
    flow->made += size;
}

int send_offered(struct flow *flow)
{
    struct zh_stream_record *records = malloc((flow->offered_count + 1) * sizeof *records);

    CHECK(records);
    for (unsigned i = 0; i < flow->offered_count; i++) {
        struct lent *lent = flow->offered[i];
        records[i] = (struct zh_stream_record){lent->pieces, lent->count, released, lent};
    }
    int result = send_records(flow->from, records, flow->offered_count);
    free(records);
    CHECK(result <= (int)flow->offered_count && result != 0);
    unsigned accepted = result > 0 ? (unsigned)result : 0;
    for (unsigned i = 0; i < flow->offered_count; i++) {
        struct lent *lent = flow->offered[i];
        if (i < accepted) {
            flow->sent += lent->size;
            flow->records++;
            free(lent->pieces); /* may go as soon as send returns */
            lent->pieces = NULL;
        } else {
            CHECK(lent->memory); /* still the caller's */
            flow->offered[i - accepted] = lent;
        }
    }
    flow->offered_count -= accepted;
    suite_news += accepted;
    return result;
}

void withdraw(struct flow *flow)
{
    while (flow->offered_count) {
        struct lent *lent = flow->offered[--flow->offered_count];
        flow->made -= lent->size;
        free(lent->pieces);
        free(lent->memory);
        lent->memory = NULL;
        suite_lent_count--;
    }
}

void send_one(struct flow *flow, size_t size, unsigned pieces)
{
    suite_offer(flow, size, pieces);
    UNTIL(send_offered(flow) == 1);
}

void send_until_full(struct flow *flow, size_t size)
{
    for (unsigned idle = 0; idle < 8; idle++) {
        if (!flow->offered_count)
            suite_offer(flow, size, 3);
        int result = send_offered(flow);
        if (result > 0) {
            idle = 0;
            CHECK(flow->sent < (uint64_t)512 * MIB);
        } else {
            CHECK_EQ(result, -EAGAIN);
            suite_step();
        }
    }
    withdraw(flow);
}

void release_held(struct flow *flow, size_t index)
{
    struct held held = flow->held[index];

    suite_verify(held.segment.data, held.segment.size, held.seed, held.offset);
    flow->held_bytes -= held.segment.size;
    flow->held[index] = flow->held[--flow->held_count];
    unsigned was = inside;
    inside = 100; /* no record is released inside zh_stream_release */
    zh_stream_release(&held.segment);
    inside = was;
}

void release_all(struct flow *flow)
{
    while (flow->held_count)
        release_held(flow, suite_draw(flow->held_count));
    free(flow->held);
    flow->held = NULL;
    flow->held_room = 0;
}

int receive_held(struct flow *flow, unsigned count)
{
    struct zh_stream_segment segments[OFFERED];

    int result = suite_take(flow->to, segments, count);
    for (int i = 0; i < result; i++) {
        CHECK(segments[i].size > 0);
        suite_verify(segments[i].data, segments[i].size, flow->seed, flow->received);
        if (flow->held_count == flow->held_room) {
            flow->held_room = flow->held_room ? flow->held_room * 2 : 64;
            flow->held = realloc(flow->held, flow->held_room * sizeof *flow->held);
            CHECK(flow->held);
        }
        flow->held[flow->held_count++] = (struct held){segments[i], flow->seed, flow->received};
        flow->held_bytes += segments[i].size;
        flow->received += segments[i].size;
        suite_news++;
    }
    CHECK(!flow->end || result == 0);
    if (result == 0 && !flow->end) {
        flow->end = true;
        suite_news++;
    }
    return result;
}

int suite_receive(struct flow *flow)
{
    int result = receive_held(flow, 1 + (unsigned)suite_draw(OFFERED));

    release_all(flow);
    return result;
}

bool received_all(struct flow *flow)
{
    while (flow->received < flow->sent) {
        int result = suite_receive(flow);
        if (result == -EAGAIN)
            return false;
        CHECK(result > 0);
    }
    return true;
}

bool suite_ended(struct flow *flow)
{
    while (!flow->end) {
        int result = suite_receive(flow);
        if (result == -EAGAIN)
            return false;
        CHECK(result >= 0);
    }
    CHECK_EQ(flow->received, flow->sent);
    CHECK_EQ(suite_receive(flow), 0);
    return true;
}

void close_both(struct pair *pair)
{
    int first = (int)suite_draw(2);

    close_end(pair->ends[first]);
    close_end(pair->ends[!first]);
    suite_settle();
    for (int i = 0; i < 2; i++)
        release_all(&pair->flows[i]);
}

int expect_failed(struct zh_stream *stream)
{
    struct zh_stream_segment segment;
    uint8_t byte = 0;
    struct iovec piece = {&byte, 1};
    struct zh_stream_record record = {&piece, 1, NULL, NULL};

    UNTIL(suite_ready(stream) & ZH_STREAM_ERR);
    int error = suite_take(stream, &segment, 1);
    CHECK(error < 0 && error != -EAGAIN);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(send_records(stream, &record, 1), error);
        CHECK_EQ(suite_shut(stream), error);
        CHECK_EQ(suite_take(stream, &segment, 1), error);
        CHECK(suite_ready(stream) & ZH_STREAM_ERR);
        CHECK(suite_ready(stream) & ZH_STREAM_IN);
        CHECK(!(suite_ready(stream) & ZH_STREAM_OUT));
        suite_step();
    }
    suite_info(stream);
    return error;
}
