/* The Internet checksum (RFC 1071): one's complement sums of 16-bit words. Any wider words give the
 * same sum modulo 0xffff (section 2 (C)), so 32-bit ones are added into 64 bits, many at a time;
 * and in any byte order (section 2 (B)), so none is swapped. */
#include "stack.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline uint64_t sum_words(const uint8_t *data, size_t size)
{
    uint64_t sum = 0;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        sum += (word & 0xffffffff) + (word >> 32);
    }
    if (size & 4) {
        uint32_t word;
        memcpy(&word, data, 4);
        sum += word;
        data += 4;
    }
    if (size & 2) {
        uint16_t word;
        memcpy(&word, data, 2);
        sum += word;
        data += 2;
    }
    if (size & 1) { /* padded with a zero byte behind it */
        uint16_t word = 0;
        memcpy(&word, data, 1);
        sum += word;
    }
    return sum;
}

static uint64_t sum_portable(const uint8_t *data, size_t size)
{
    return sum_words(data, size);
}

static uint64_t (*sum_long)(const uint8_t *data, size_t size) = sum_portable;

#if defined(__x86_64__)
/* Tuned for what has AVX2: what the rest is tuned for reads 32 bytes in two halves. */
__attribute__((target("avx2,tune=haswell"))) static uint64_t sum_avx2(const uint8_t *data,
                                                                      size_t size)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (; size >= 64; data += 64, size -= 64) {
        __m256i x = _mm256_loadu_si256((const __m256i *)data);
        __m256i y = _mm256_loadu_si256((const __m256i *)(data + 32));
        a = _mm256_add_epi64(a, _mm256_and_si256(x, low));
        b = _mm256_add_epi64(b, _mm256_srli_epi64(x, 32));
        c = _mm256_add_epi64(c, _mm256_and_si256(y, low));
        d = _mm256_add_epi64(d, _mm256_srli_epi64(y, 32));
    }
    a = _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
    __m128i half = _mm_add_epi64(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return (uint64_t)_mm_cvtsi128_si64(half) + (uint64_t)_mm_extract_epi64(half, 1) +
           sum_words(data, size);
}

__attribute__((constructor)) static void choose(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        sum_long = sum_avx2;
}
#endif

uint64_t net_sum(const void *data, size_t size)
{
    return size < 128 ? sum_words(data, size) : sum_long(data, size);
}

uint64_t net_sum_packet(const struct rte_mbuf *packet, uint32_t offset, uint32_t size)
{
    while (packet && offset >= packet->data_len) {
        offset -= packet->data_len;
        packet = packet->next;
    }
    uint64_t sum = 0;
    bool odd = false; /* an odd number of bytes lies before the piece */
    for (; packet && size; packet = packet->next, offset = 0) {
        uint32_t n = packet->data_len - offset;
        if (n > size)
            n = size;
        uint64_t piece = net_sum(rte_pktmbuf_mtod_offset(packet, const uint8_t *, offset), n);
        /* RFC 1071 section 2 (B): swapped words sum up to the swapped sum. */
        sum += odd ? __builtin_bswap16(net_sum_fold(piece)) : piece;
        odd ^= n & 1;
        size -= n;
    }
    return sum;
}

uint64_t net_sum_pseudo(const struct net_addr *src, const struct net_addr *dst, uint8_t protocol,
                        uint32_t size)
{
    /* The words that make an IPv4 address a mapped one are 0xffff, which adds nothing; and a sum
     * with an address in it is not 0. So both versions' pseudo-headers have the same sum. */
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (uint64_t)src->words[i] + dst->words[i];
    return sum + rte_cpu_to_be_32(size) + rte_cpu_to_be_32(protocol);
}
