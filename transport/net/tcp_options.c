/* TCP options: reading and writing the bytes between the header and the payload. RFC 9293 sections
 * 3.1 and 3.2, RFC 7323 sections 2 and 3, RFC 2018 sections 2 and 3. */
#include "tcp.h"

enum { /* kinds (RFC 9293 section 3.2, 7323, 2018), and their sizes */
       KIND_END = 0,
       KIND_NOP = 1,
       KIND_MSS = 2,
       KIND_WINDOW_SHIFT = 3,
       KIND_SACK_PERMITTED = 4,
       KIND_SACK = 5,
       KIND_TIMESTAMPS = 8,
       SIZE_MSS = 4,
       SIZE_WINDOW_SHIFT = 3,
       SIZE_SACK_PERMITTED = 2,
       SIZE_SACK_BLOCK = 8,
       SIZE_TIMESTAMPS = 10,
       SIZE_ALL = 40, /* most that a header has room for */
};

/* Two NOPs and timestamps: what nearly every segment has (RFC 7323 appendix A). */
#define TIMESTAMPS_ALONE UINT32_C(0x0101080a)

static uint16_t read_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t read_u32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return rte_be_to_cpu_32(value);
}

static uint8_t *write_u32(uint8_t *at, uint32_t value)
{
    value = rte_cpu_to_be_32(value);
    memcpy(at, &value, sizeof value);
    return at + sizeof value;
}

static void parse_sack(const uint8_t *blocks, size_t size, struct tcp_options *out)
{
    for (; size >= SIZE_SACK_BLOCK && out->sack_count < TCP_SACK_MAX; size -= SIZE_SACK_BLOCK) {
        struct tcp_sack_block block = {read_u32(blocks), read_u32(blocks + 4)};
        if (seq_lt(block.start, block.end))
            out->sack[out->sack_count++] = block;
        blocks += SIZE_SACK_BLOCK;
    }
}

/* One option whose `size` bytes, kind and length included, are all there. A length that is not its
 * kind's makes it an unknown one. */
static void parse_one(const uint8_t *option, uint8_t size, bool syn, struct tcp_options *out)
{
    switch (option[0]) {
    case KIND_MSS:
        if (syn && size == SIZE_MSS) {
            uint16_t mss = read_u16(option + 2);
            out->has_mss = true;
            out->mss = mss < TCP_MSS_MIN ? TCP_MSS_MIN : mss;
        }
        break;
    case KIND_WINDOW_SHIFT:
        if (syn && size == SIZE_WINDOW_SHIFT) {
            out->has_window_shift = true;
            out->window_shift = option[2] > TCP_WINDOW_SHIFT_MAX ? TCP_WINDOW_SHIFT_MAX : option[2];
        }
        break;
    case KIND_SACK_PERMITTED:
        if (syn && size == SIZE_SACK_PERMITTED)
            out->sack_permitted = true;
        break;
    case KIND_SACK:
        if (!syn && (size - 2) % SIZE_SACK_BLOCK == 0)
            parse_sack(option + 2, size - 2u, out);
        break;
    case KIND_TIMESTAMPS:
        if (size == SIZE_TIMESTAMPS) {
            out->has_timestamps = true;
            out->tsval = read_u32(option + 2);
            out->tsecr = read_u32(option + 6);
        }
        break;
    }
}

void tcp_options_parse(const uint8_t *options, size_t size, bool syn, struct tcp_options *out)
{
    *out = (struct tcp_options){0};
    if (size == 12 && read_u32(options) == TIMESTAMPS_ALONE) {
        out->has_timestamps = true;
        out->tsval = read_u32(options + 4);
        out->tsecr = read_u32(options + 8);
        return;
    }
    while (size > 0 && options[0] != KIND_END) {
        size_t length = 1;
        if (options[0] != KIND_NOP) {
            if (size < 2 || options[1] < 2 || options[1] > size)
                return;
            length = options[1];
            parse_one(options, options[1], syn, out);
        }
        options += length;
        size -= length;
    }
}

/* Layouts as RFC 7323 appendix A and RFC 2018 section 3 draw them: every piece is a whole number of
 * words, so that 32-bit values lie aligned. */
size_t tcp_options_emit(const struct tcp_options *options, uint8_t *out)
{
    uint8_t *at = out;
    if (options->has_mss)
        at = write_u32(at, (uint32_t)KIND_MSS << 24 | SIZE_MSS << 16 | options->mss);
    if (options->has_timestamps) {
        at = write_u32(at, options->sack_permitted
                               ? (uint32_t)KIND_SACK_PERMITTED << 24 | SIZE_SACK_PERMITTED << 16 |
                                     KIND_TIMESTAMPS << 8 | SIZE_TIMESTAMPS
                               : TIMESTAMPS_ALONE);
        at = write_u32(at, options->tsval);
        at = write_u32(at, options->tsecr);
    } else if (options->sack_permitted) {
        at = write_u32(at, (uint32_t)KIND_NOP << 24 | KIND_NOP << 16 | KIND_SACK_PERMITTED << 8 |
                               SIZE_SACK_PERMITTED);
    }
    if (options->has_window_shift)
        at = write_u32(at, (uint32_t)KIND_NOP << 24 | KIND_WINDOW_SHIFT << 16 |
                               SIZE_WINDOW_SHIFT << 8 | options->window_shift);
    size_t left = SIZE_ALL - (size_t)(at - out);
    unsigned count = options->sack_count < TCP_SACK_MAX ? options->sack_count : TCP_SACK_MAX;
    while (count > 0 && 4 + count * SIZE_SACK_BLOCK > left)
        count--;
    if (count > 0) {
        at = write_u32(at, (uint32_t)KIND_NOP << 24 | KIND_NOP << 16 | KIND_SACK << 8 |
                               (2 + count * SIZE_SACK_BLOCK));
        for (unsigned i = 0; i < count; i++) {
            at = write_u32(at, options->sack[i].start);
            at = write_u32(at, options->sack[i].end);
        }
    }
    return (size_t)(at - out);
}
