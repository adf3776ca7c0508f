/* Checksums against sums taken byte by byte, over all alignments and any segmentation. */
#include "layers.h"

static uint64_t state = 88172645463325252u;

static uint64_t draw(uint64_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 20) % n;
}

/* RFC 1071 section 1, in the order of the wire. */
static uint16_t naive(const uint8_t *data, size_t size)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += i % 2 ? data[i] : (uint64_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return rte_cpu_to_be_16((uint16_t)sum);
}

int main(void)
{
    enum { MOST = 9000 };
    static uint8_t bytes[MOST + 64];
    layers_start();
    for (int round = 0; round < 20000; round++) {
        size_t offset = draw(64), size = draw(round % 2 ? 200 : MOST);
        unsigned kind = (unsigned)draw(4); /* all bits set is where carries are lost */
        for (size_t i = 0; i < size; i++)
            bytes[offset + i] = kind == 0 ? 0xff : kind == 1 ? 0 : (uint8_t)draw(256);
        /* Of its exact size, for the sanitizers. */
        uint8_t *exact = malloc(size + 1);
        memcpy(exact, bytes + offset, size);
        CHECK_EQ(net_sum_fold(net_sum(exact, size)), naive(exact, size));
        CHECK_EQ(net_sum_fold(net_sum(bytes + offset, size)), naive(exact, size));

        if (round % 10 == 0 && size > 0) {
            struct rte_mbuf *packet = NULL;
            for (size_t at = 0; at < size;) {
                size_t n = 1 + draw(round % 20 ? 700 : 9);
                n = n < size - at ? n : size - at;
                if (packet && packet->nb_segs == 300)
                    n = size - at < 2048 ? size - at : 2000;
                struct rte_mbuf *piece = packet_of(exact + at, n, 0);
                CHECK(piece->nb_segs == 1);
                if (packet)
                    CHECK(rte_pktmbuf_chain(packet, piece) == 0);
                else
                    packet = piece;
                at += n;
            }
            size_t from = draw(size), count = draw(size - from + 1);
            CHECK_EQ(net_sum_fold(net_sum_packet(packet, (uint32_t)from, (uint32_t)count)),
                     naive(exact + from, count));
            CHECK_EQ(net_sum_fold(net_sum_packet(packet, 0, (uint32_t)size)), naive(exact, size));
            rte_pktmbuf_free(packet);
        }
        free(exact);
    }

    /* Sums of pieces of even length add up, a pseudo-header's among them. */
    static const uint8_t pseudo4[] = {10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0x12, 0x34};
    struct net_addr a = v4("\x0a\x00\x00\x01"), b = v4("\x0a\x00\x00\x02");
    CHECK_EQ(net_sum_fold(net_sum_pseudo(&a, &b, 6, 0x1234)), naive(pseudo4, sizeof pseudo4));
    struct net_addr c = {.bytes = {0xfd, 0, [15] = 1}}, d = {.bytes = {0xfe, 0x80, [14] = 9, 2}};
    uint8_t pseudo6[40];
    memcpy(pseudo6, c.bytes, 16);
    memcpy(pseudo6 + 16, d.bytes, 16);
    memcpy(pseudo6 + 32, "\x00\x01\x00\x05\x00\x00\x00\x3a", 8);
    CHECK_EQ(net_sum_fold(net_sum_pseudo(&c, &d, 58, 0x10005)), naive(pseudo6, sizeof pseudo6));
    CHECK_EQ(net_sum_fold(UINT64_MAX), 0xffff);
    CHECK_EQ(net_sum_fold(0), 0);
    return 0;
}
