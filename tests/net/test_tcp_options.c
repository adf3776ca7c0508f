/* TCP options as they lie on the wire, and what is made of broken ones. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "net/tcp.h"

/* From memory of the exact size, for the sanitizers. */
static struct tcp_options parse(const void *bytes, size_t size, bool syn)
{
    struct tcp_options options;
    uint8_t *exact = malloc(size ? size : 1);
    memcpy(exact, bytes, size);
    memset(&options, 0xa5, sizeof options);
    tcp_options_parse(exact, size, syn, &options);
    free(exact);
    return options;
}

#define PARSE(syn, ...) parse((uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}), syn)

static void emits(const struct tcp_options *options, const void *expected, size_t size)
{
    uint8_t out[40];
    CHECK_EQ(tcp_options_emit(options, out), size);
    CHECK(memcmp(out, expected, size) == 0);
}

#define EMITS(options, ...)                                                                        \
    emits(options, (uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* A SYN of Linux: MSS 1460, SACK permitted, timestamps, shift 7. */
static void test_syn(void)
{
    const struct tcp_options syn = {
        .has_mss = true,
        .mss = 1460,
        .sack_permitted = true,
        .has_timestamps = true,
        .tsval = 0x01020304,
        .tsecr = 0,
        .has_window_shift = true,
        .window_shift = 7,
    };
    EMITS(&syn, 2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7);
    struct tcp_options in =
        PARSE(true, 2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7);
    CHECK(in.has_mss && in.sack_permitted && in.has_timestamps && in.has_window_shift);
    CHECK_EQ(in.mss, 1460);
    CHECK_EQ(in.window_shift, 7);
    CHECK_EQ(in.tsval, 0x01020304);
    /* The same without SYN: timestamps alone count. */
    in = PARSE(false, 2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 9, 1, 3, 3, 7);
    CHECK(!in.has_mss && !in.sack_permitted && in.has_timestamps && !in.has_window_shift);
    CHECK_EQ(in.tsecr, 9);
    EMITS(&((struct tcp_options){.sack_permitted = true}), 1, 1, 4, 2);
}

static void test_timestamps(void)
{
    struct tcp_options in = PARSE(false, 1, 1, 8, 10, 0x80, 0, 0, 1, 0, 0, 1, 0);
    CHECK(in.has_timestamps && in.sack_count == 0);
    CHECK_EQ(in.tsval, 0x80000001);
    CHECK_EQ(in.tsecr, 256);
    EMITS(&in, 1, 1, 8, 10, 0x80, 0, 0, 1, 0, 0, 1, 0);
    in = PARSE(false, 8, 10, 0x80, 0, 0, 1, 0, 0, 1, 0, 0, 0); /* another layout */
    CHECK(in.has_timestamps);
    CHECK_EQ(in.tsval, 0x80000001);
    in = PARSE(false, 1, 1, 8, 9, 0x80, 0, 0, 1, 0, 0, 1, 1); /* a wrong length */
    CHECK(!in.has_timestamps);
}

static void test_sack(void)
{
    struct tcp_options out = {.sack_count = 4};
    for (uint32_t i = 0; i < 4; i++)
        out.sack[i] = (struct tcp_sack_block){i * 16, i * 16 + 8};
    uint8_t bytes[40];
    CHECK_EQ(tcp_options_emit(&out, bytes), 36);
    struct tcp_options in = parse(bytes, 36, false);
    CHECK_EQ(in.sack_count, 4);
    CHECK(memcmp(in.sack, out.sack, sizeof in.sack) == 0);
    CHECK_EQ(parse(bytes, 36, true).sack_count, 0);
    CHECK_EQ(parse(bytes, 35, false).sack_count, 0); /* cut off */
    /* Three fit beside timestamps. */
    out.has_timestamps = true;
    CHECK_EQ(tcp_options_emit(&out, bytes), 40);
    in = parse(bytes, 40, false);
    CHECK_EQ(in.sack_count, 3);
    CHECK(in.has_timestamps);
    CHECK_EQ(in.sack[2].end, 40);
    /* One that wraps is kept, empty and reversed ones are not. */
    in = PARSE(false, 5, 26, 255, 255, 255, 255, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 9, 0,
               0, 0, 8);
    CHECK_EQ(in.sack_count, 1);
    CHECK_EQ(in.sack[0].end, 1);
    /* Not a number of blocks; none; more than any header has room for. */
    CHECK_EQ(PARSE(false, 5, 9, 0, 0, 0, 1, 0, 0, 0).sack_count, 0);
    CHECK_EQ(PARSE(false, 5, 2, 1, 1).sack_count, 0);
    uint8_t many[66] = {5, 66};
    for (int i = 0; i < 8; i++)
        many[2 + i * 8 + 7] = 1;
    CHECK_EQ(parse(many, sizeof many, false).sack_count, TCP_SACK_MAX);
}

static void test_broken(void)
{
    CHECK(!parse("", 0, true).has_mss);
    CHECK(!PARSE(true, 2).has_mss);
    CHECK(!PARSE(true, 2, 4, 5).has_mss);
    CHECK(!PARSE(true, 0, 2, 4, 5, 0xb4).has_mss);       /* after the end */
    CHECK(!PARSE(true, 99, 0, 2, 4, 5, 0xb4).has_mss);   /* a length of 0 would never end */
    CHECK(!PARSE(true, 99, 1, 2, 4, 5, 0xb4).has_mss);   /* nor of 1 get past the kind */
    CHECK(!PARSE(true, 99, 200, 2, 4, 5, 0xb4).has_mss); /* beyond the header */
    CHECK(PARSE(true, 99, 3, 0, 2, 4, 5, 0xb4).has_mss); /* unknown: skipped */
    CHECK(PARSE(true, 3, 4, 7, 7, 2, 4, 5, 0xb4).has_mss);
    CHECK(!PARSE(true, 3, 4, 7, 7, 2, 4, 5, 0xb4).has_window_shift);
    CHECK_EQ(PARSE(true, 2, 4, 0, 1).mss, TCP_MSS_MIN);
    CHECK_EQ(PARSE(true, 3, 3, 15).window_shift, 14); /* RFC 7323 section 2.3 */
}

int main(void)
{
    test_syn();
    test_timestamps();
    test_sack();
    test_broken();
    return 0;
}
