/* Is it UTF-8? Mostly it is ASCII, so that goes by 8 bytes at a time. */
#include "wire_internal.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

/* The bytes of the sequence at `p`, of which `left` are there; 0: it is none. RFC 3629, section 4.
 */
static size_t sequence(const uint8_t *p, size_t left)
{
    uint8_t low = 0x80, high = 0xbf; /* bounds of the second byte */
    size_t bytes;

    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2) /* a continuation, or an overlong form of ASCII */
        return 0;
    if (p[0] < 0xe0) {
        bytes = 2;
    } else if (p[0] < 0xf0) {
        bytes = 3;
        if (p[0] == 0xe0)
            low = 0xa0; /* overlong */
        else if (p[0] == 0xed)
            high = 0x9f; /* surrogates */
    } else if (p[0] < 0xf5) {
        bytes = 4;
        if (p[0] == 0xf0)
            low = 0x90; /* overlong */
        else if (p[0] == 0xf4)
            high = 0x8f; /* beyond U+10FFFF */
    } else {
        return 0;
    }
    if (left < bytes || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < bytes; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return bytes;
}

/* Short text too, by words that overlap. */
static inline bool ascii(const uint8_t *text, size_t bytes)
{
    uint64_t bits = 0, word;
    uint32_t first, last;

    if (bytes >= 8) {
        for (size_t i = 0; i + 8 < bytes; i += 8) {
            memcpy(&word, text + i, sizeof(word));
            if ((word & HIGH_BITS) != 0)
                return false;
        }
        memcpy(&bits, text + bytes - 8, sizeof(bits));
    } else if (bytes >= 4) {
        memcpy(&first, text, sizeof(first));
        memcpy(&last, text + bytes - 4, sizeof(last));
        bits = first | last;
    } else if (bytes > 0) {
        bits = text[0] | text[bytes / 2] | text[bytes - 1];
    }
    return (bits & HIGH_BITS) == 0;
}

bool zh_utf8_valid(const uint8_t *text, size_t bytes)
{
    if (ascii(text, bytes))
        return true;

    const uint8_t *end = text + bytes;

    while (text < end) {
        while (end - text >= 8) {
            uint64_t eight;
            memcpy(&eight, text, sizeof(eight));
            if ((eight & HIGH_BITS) != 0)
                break;
            text += 8;
        }
        /* Up to 8 characters before ASCII is tried again. */
        for (int i = 0; i < 8 && text < end; i++) {
            size_t n = sequence(text, (size_t)(end - text));
            if (n == 0)
                return false;
            text += n;
        }
    }
    return true;
}
