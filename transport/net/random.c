/* Random numbers that need not be secret, and the hash whose values a peer cannot foresee. */
#include <sys/random.h>

#include "stack.h"

static uint64_t rotate(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

/* SipHash-2-4: Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, section 2. */
uint64_t net_siphash(const uint8_t key[16], const void *data, size_t size)
{
    uint64_t k0, k1, word;
    memcpy(&k0, key, 8);
    memcpy(&k1, key + 8, 8);
    k0 = rte_le_to_cpu_64(k0);
    k1 = rte_le_to_cpu_64(k1);
    struct sip s = {k0 ^ UINT64_C(0x736f6d6570736575), k1 ^ UINT64_C(0x646f72616e646f6d),
                    k0 ^ UINT64_C(0x6c7967656e657261), k1 ^ UINT64_C(0x7465646279746573)};
    const uint8_t *p = data;
    for (size_t left = size;; left -= 8, p += 8) {
        bool last = left < 8;
        word = 0;
        if (left)
            memcpy(&word, p, last ? left : 8);
        word = rte_le_to_cpu_64(word);
        if (last)
            word |= (uint64_t)size << 56;
        s.v3 ^= word;
        sip_round(&s);
        sip_round(&s);
        s.v0 ^= word;
        if (last)
            break;
    }
    s.v2 ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

/* SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t net_random(struct zh_net *net)
{
    return (uint32_t)(next(&net->random) >> 32);
}

int net_random_start(struct zh_net *net, uint64_t seed)
{
    if (seed) {
        net->random = seed;
        for (int i = 0; i < 2; i++) {
            uint64_t half = next(&net->random);
            memcpy(net->key + 8 * i, &half, 8);
        }
        return 0;
    }
    uint8_t bytes[sizeof net->key + sizeof net->random];
    /* At most 256 bytes come whole (getrandom(2)). */
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return -errno;
    memcpy(net->key, bytes, sizeof net->key);
    memcpy(&net->random, bytes + sizeof net->key, sizeof net->random);
    return 0;
}
