/* SipHash-2-4 against the vectors of its paper's reference implementation, and the generator. */
#include "layers.h"

int main(void)
{
    /* Of keys 00 01 .. 0f and inputs 00 01 .. of 0, 1, 7, 8, 15 and 63 bytes: 15 is the paper's
     * own, in its appendix A. */
    static const struct {
        size_t size;
        uint64_t hash;
    } vectors[] = {
        {0, UINT64_C(0x726fdb47dd0e0e31)},  {1, UINT64_C(0x74f839c593dc67fd)},
        {7, UINT64_C(0xab0200f58b01d137)},  {8, UINT64_C(0x93f5f5799a932462)},
        {15, UINT64_C(0xa129ca6149be45e5)}, {63, UINT64_C(0x958a324ceb064572)},
    };
    uint8_t bytes[64], key[16];
    for (unsigned i = 0; i < 64; i++)
        bytes[i] = (uint8_t)i;
    memcpy(key, bytes, 16);
    for (unsigned i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        uint8_t *exact = malloc(vectors[i].size + 1);
        memcpy(exact + 1, bytes, vectors[i].size); /* unaligned */
        CHECK(net_siphash(key, exact + 1, vectors[i].size) == vectors[i].hash);
        free(exact);
    }

    static struct zh_net a, b;
    CHECK(net_random_start(&a, 7) == 0 && net_random_start(&b, 7) == 0);
    CHECK(memcmp(a.key, b.key, 16) == 0);
    for (int i = 0; i < 100; i++)
        CHECK(net_random(&a) == net_random(&b));
    CHECK(net_random_start(&b, 8) == 0 && memcmp(a.key, b.key, 16) != 0);
    CHECK(net_random_start(&a, 0) == 0 && net_random_start(&b, 0) == 0);
    CHECK(memcmp(a.key, b.key, 16) != 0 && net_random(&a) != net_random(&b));
    unsigned high = 0;
    for (int i = 0; i < 10000; i++)
        high += net_random(&a) >> 31;
    CHECK(high > 4500 && high < 5500);
    return 0;
}
