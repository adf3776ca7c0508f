/* Fuzz the options parser. Input: a byte whose bit 0 says whether it is a SYN, then the options.
 * What was read is written, read again, and must be the same. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fuzz.h"
#include "net/tcp.h"

static void check_bounds(const struct tcp_options *options)
{
    CHECK(!options->has_mss || options->mss >= TCP_MSS_MIN);
    CHECK(options->window_shift <= TCP_WINDOW_SHIFT_MAX);
    CHECK(options->sack_count <= TCP_SACK_MAX);
    for (unsigned i = 0; i < options->sack_count; i++)
        CHECK(seq_lt(options->sack[i].start, options->sack[i].end));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tcp_options first, second;
    if (size < 1)
        return 0;
    uint8_t *exact = malloc(size > 1 ? size - 1 : 1);
    memcpy(exact, data + 1, size - 1);
    tcp_options_parse(exact, size - 1, data[0] & 1, &first);
    free(exact);
    check_bounds(&first);

    uint8_t *written = malloc(40);
    size_t n = tcp_options_emit(&first, written);
    CHECK(n <= 40 && n % 4 == 0);
    uint8_t *again = malloc(n ? n : 1);
    memcpy(again, written, n);
    tcp_options_parse(again, n, data[0] & 1, &second);
    free(again);
    free(written);
    CHECK(first.has_mss == second.has_mss && first.mss == second.mss);
    CHECK(first.has_window_shift == second.has_window_shift);
    CHECK(first.window_shift == second.window_shift);
    CHECK(first.sack_permitted == second.sack_permitted);
    CHECK(first.has_timestamps == second.has_timestamps);
    CHECK(first.tsval == second.tsval && first.tsecr == second.tsecr);
    CHECK(second.sack_count <= first.sack_count && second.sack_count + 1 >= first.sack_count);
    CHECK(memcmp(first.sack, second.sack, second.sack_count * sizeof first.sack[0]) == 0);
    return 0;
}
