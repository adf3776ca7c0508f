/*
 * Fuzz reading of images. Input: `struct header`, then the root and two segments. They are encoded,
 * sized and copied, in a part of the runs while another thread writes into them; nothing but an
 * error or some result may come of it, soon. A copy is an image of our own, so it must be sound.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "check.h"
#include "fuzz.h"
#include "image/wire_internal.h"
#include "sample.h"

struct header {
    uint8_t layout;
    uint8_t how;    /* bits: 1 sorted, 6 (both) another thread writes */
    uint16_t root;  /* bytes */
    uint16_t first; /* bytes of segment 1; the rest is segment 2 */
    uint16_t seed;
};

static struct {
    uint8_t *data;
    size_t bytes;
} parts[3]; /* the root, the segments */

static atomic_bool stop;

static const uint8_t *far(void *context, zh_ref ref, uint64_t bytes)
{
    uint32_t segment = zh_ref_segment(ref);
    uint64_t offset = zh_ref_offset(ref);

    (void)context;
    if (segment > 2 || offset > parts[segment].bytes || bytes > parts[segment].bytes - offset)
        return NULL;
    return parts[segment].data + offset;
}

/* Writes bytes and small numbers here and there, and takes them back. */
static void *write_on(void *arg)
{
    uint64_t random = *(const uint16_t *)arg | 1;

    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t choice = random >> 33;
        size_t part = choice % 3;
        if (parts[part].bytes < 8)
            continue;
        size_t at = (choice >> 2) % (parts[part].bytes - 7);
        volatile uint8_t *to = parts[part].data + at;
        uint8_t before[8];
        for (int i = 0; i < 8; i++)
            before[i] = to[i];
        for (int i = 0; i < 8; i++)
            to[i] = (choice & 0x10000) != 0 ? (uint8_t)(random >> (8 * i)) : 0xff;
        for (int i = 0; i < 8; i++)
            to[i] = before[i];
    }
    return NULL;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void check_error(int64_t error)
{
    CHECK(error == -EILSEQ || error == -ELOOP || error == -EFAULT || error == -EMSGSIZE);
}

static int read_all(const struct zh_layout *layout, bool sorted, bool changing)
{
    struct zh_space space = {parts[0].data, parts[0].bytes, far, NULL};
    struct zh_wire_bytes out = {0};
    struct message m;
    const uint8_t *at = zh_space_root(&space, layout);

    if (at == NULL)
        return 0;
    uint64_t bytes;
    int64_t size = zh_wire_size(&space, layout, at);
    int encoded = zh_wire_encode(&space, layout, at, sorted, &out);
    message_init(&m, layout);
    int copied = zh_image_copy(&m.image, layout, message_at(&m), &space, at, &bytes);
    if (!changing && encoded == 0 && copied == 0)
        CHECK_EQ(size, out.bytes);
    if (size < 0)
        check_error(size);
    if (encoded != 0)
        check_error(encoded);
    if (copied != 0)
        check_error(copied);
    /* Whatever was copied of it: as the steps are few, another count of them may be too many. */
    uint32_t steps = zh_image_steps;
    zh_image_steps = steps * 4;
    struct zh_wire_bytes again = message_encode(&m, sorted);
    zh_image_steps = steps;
    if (!changing && encoded == 0 && copied == 0)
        CHECK(again.bytes == out.bytes && memcmp(again.data, out.data, out.bytes) == 0);
    free(again.memory);
    free(out.memory);
    message_free(&m);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header header;
    pthread_t writer;

    if (thing.size == 0)
        samples_init();
    if (size < sizeof(header))
        return 0;
    memcpy(&header, data, sizeof(header));
    data += sizeof(header);
    size -= sizeof(header);
    parts[0].bytes = header.root % (ZH_IMAGE_ROOT + 1);
    parts[1].bytes = header.first;
    for (int i = 0; i < 3; i++) {
        if (i == 2 || parts[i].bytes > size)
            parts[i].bytes = size;
        parts[i].data = malloc(parts[i].bytes);
        if (parts[i].bytes > 0)
            memcpy(parts[i].data, data, parts[i].bytes);
        data += parts[i].bytes;
        size -= parts[i].bytes;
    }
    zh_image_steps = 2000;
    const struct zh_layout *layouts[] = {&thing, &hollow, &wide, &thing};
    bool changing = (header.how & 6) == 6;
    double start = seconds();
    if (changing) {
        atomic_store(&stop, false);
        CHECK_EQ(pthread_create(&writer, NULL, write_on, &header.seed), 0);
    }
    for (int i = 0; i < (changing ? 8 : 1); i++)
        read_all(layouts[header.layout & 3], (header.how & 1) != 0, changing);
    if (changing) {
        atomic_store(&stop, true);
        pthread_join(writer, NULL);
    }
    CHECK(seconds() - start < 20);
    for (int i = 0; i < 3; i++)
        free(parts[i].data);
    return 0;
}
