#include "sample.h"

#include <errno.h>

#include "check.h"
#include "image/wire_internal.h"

struct zh_layout thing, hollow, wide;
static struct zh_layout entries[5];

static const int32_t closed[] = {-3, 0, 2};

static uint8_t width_of(const struct zh_field *f)
{
    switch (f->kind) {
    case ZH_STRING:
    case ZH_BYTES:
        return 16;
    case ZH_BOOL:
        return 1;
    case ZH_FLOAT:
    case ZH_INT32:
    case ZH_UINT32:
    case ZH_FIXED32:
    case ZH_SFIXED32:
    case ZH_SINT32:
    case ZH_ENUM:
        return 4;
    default:
        return 8;
    }
}

/* Lay out a struct as docs/image.md says, for at most one oneof. */
static void lay_out(struct zh_layout *layout, struct zh_field *fields, uint16_t count,
                    uint16_t flags)
{
    static uint16_t lookups[8][64];
    static int lookups_used;
    static const uint16_t units[] = {16, 8, 4, 1};
    uint16_t *lookup = lookups[lookups_used++], shared = 0;
    struct zh_field *first = NULL; /* of the oneof */

    *layout = (struct zh_layout){.field_count = count, .flags = flags, .fields = fields};
    layout->lookup = lookup;
    layout->lookup_count = fields[count - 1].number < 64 ? fields[count - 1].number + 1 : 64;
    memset(lookup, 0xff, sizeof(lookups[0]));
    for (uint16_t i = 0; i < count; i++) {
        struct zh_field *f = &fields[i];
        f->width = width_of(f);
        f->tag = zh_tag(f->number, zh_wire_types[f->kind]);
        f->unit = f->label >= ZH_REPEATED ? 16 : f->width;
        if ((f->flags & ZH_FIELD_CLOSED) != 0) {
            f->values = closed;
            f->value_count = 3;
        }
        if (f->number < 64)
            lookup[f->number] = i;
        if (f->label == ZH_OPTIONAL)
            f->bit = layout->bits++;
        if (f->label == ZH_ONEOF) {
            first = first == NULL ? f : first;
            shared = f->unit > shared ? f->unit : shared;
        }
    }
    layout->oneofs = first != NULL;
    uint32_t at = ZH_PRESENCE_AT + 4u * ((layout->bits + 31u) / 32);
    uint16_t case_at = (uint16_t)at;
    at = (at + 4u * layout->oneofs + 7) & ~7u;
    for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
        for (uint16_t i = 0; i < count; i++) {
            struct zh_field *f = &fields[i];
            if (f->label == ZH_ONEOF) {
                f->unit = shared;
                f->case_at = case_at;
                if (f != first)
                    continue;
            }
            if (f->unit == units[u]) {
                f->offset = at;
                at += units[u];
            }
        }
    }
    for (uint16_t i = 0; i < count; i++) {
        if (fields[i].label == ZH_ONEOF)
            fields[i].offset = first->offset;
    }
    layout->size = (at + 7) & ~7u;
}

static void entry(int index, uint8_t key, uint8_t value, uint8_t flags,
                  const struct zh_layout *type)
{
    static struct zh_field fields[5][2];
    uint8_t presence = (flags & ZH_FIELD_CLOSED) != 0 ? ZH_OPTIONAL : ZH_IMPLICIT;
    uint8_t text = key == ZH_STRING ? ZH_FIELD_UTF8 : 0;

    fields[index][0] =
        (struct zh_field){.number = 1, .kind = key, .label = presence, .flags = text};
    fields[index][1] = (struct zh_field){
        .number = 2, .kind = value, .label = presence, .flags = flags, .type = type};
    lay_out(&entries[index], fields[index], 2, ZH_LAYOUT_ENTRY);
}

void samples_init(void)
{
#define FIELD(n, k, l, f, t)                                                                       \
    {                                                                                              \
        .number = (n), .kind = (k), .label = (l), .flags = (f), .type = (t)                        \
    }
    static struct zh_field things[] = {
        FIELD(1, ZH_INT32, ZH_IMPLICIT, 0, NULL),
        FIELD(2, ZH_SINT32, ZH_IMPLICIT, 0, NULL),
        FIELD(3, ZH_UINT64, ZH_IMPLICIT, 0, NULL),
        FIELD(4, ZH_BOOL, ZH_IMPLICIT, 0, NULL),
        FIELD(5, ZH_FIXED32, ZH_IMPLICIT, 0, NULL),
        FIELD(6, ZH_DOUBLE, ZH_IMPLICIT, 0, NULL),
        FIELD(7, ZH_STRING, ZH_IMPLICIT, ZH_FIELD_UTF8, NULL),
        FIELD(8, ZH_BYTES, ZH_OPTIONAL, 0, NULL),
        FIELD(9, ZH_INT64, ZH_OPTIONAL, 0, NULL),
        FIELD(10, ZH_ENUM, ZH_OPTIONAL, ZH_FIELD_CLOSED, NULL),
        FIELD(11, ZH_INT32, ZH_REPEATED, ZH_FIELD_PACKED, NULL),
        FIELD(12, ZH_INT32, ZH_REPEATED, 0, NULL),
        FIELD(13, ZH_BOOL, ZH_REPEATED, ZH_FIELD_PACKED, NULL),
        FIELD(14, ZH_FIXED32, ZH_REPEATED, ZH_FIELD_PACKED, NULL),
        FIELD(15, ZH_STRING, ZH_REPEATED, ZH_FIELD_UTF8, NULL),
        FIELD(16, ZH_ENUM, ZH_REPEATED, ZH_FIELD_PACKED | ZH_FIELD_CLOSED, NULL),
        FIELD(17, ZH_SUBMESSAGE, ZH_IMPLICIT, 0, &thing),
        FIELD(18, ZH_SUBMESSAGE, ZH_REPEATED, 0, &thing),
        FIELD(19, ZH_INT32, ZH_ONEOF, 0, NULL),
        FIELD(20, ZH_SUBMESSAGE, ZH_ONEOF, 0, &thing),
        FIELD(21, ZH_STRING, ZH_ONEOF, ZH_FIELD_UTF8, NULL),
        FIELD(22, ZH_SUBMESSAGE, ZH_MAP, 0, &entries[0]),
        FIELD(23, ZH_SUBMESSAGE, ZH_MAP, 0, &entries[1]),
        FIELD(24, ZH_SUBMESSAGE, ZH_MAP, 0, &entries[2]),
        FIELD(25, ZH_SINT64, ZH_REPEATED, ZH_FIELD_PACKED, NULL),
        FIELD(26, ZH_DOUBLE, ZH_REPEATED, 0, NULL),
        FIELD(27, ZH_SUBMESSAGE, ZH_REPEATED, 0, &hollow),
        FIELD(28, ZH_SUBMESSAGE, ZH_MAP, 0, &entries[3]),
        FIELD(29, ZH_SUBMESSAGE, ZH_MAP, 0, &entries[4]),
        FIELD(2000, ZH_FLOAT, ZH_OPTIONAL, 0, NULL),
    };
    static struct zh_field hollows[] = {
        FIELD(1, ZH_SUBMESSAGE, ZH_REPEATED, 0, &hollow),
        FIELD(2, ZH_SUBMESSAGE, ZH_IMPLICIT, 0, &hollow),
        FIELD(3, ZH_SUBMESSAGE, ZH_IMPLICIT, 0, &hollow),
    };
    static struct zh_field wides[41];

    entry(0, ZH_INT32, ZH_ENUM, ZH_FIELD_CLOSED, NULL);
    entry(1, ZH_STRING, ZH_SUBMESSAGE, 0, &thing);
    entry(2, ZH_INT32, ZH_INT32, 0, NULL);
    entry(3, ZH_BOOL, ZH_BYTES, 0, NULL);
    entry(4, ZH_UINT64, ZH_STRING, ZH_FIELD_UTF8, NULL);
    lay_out(&thing, things, sizeof(things) / sizeof(things[0]), 0);
    lay_out(&hollow, hollows, 3, 0);
    for (uint32_t i = 0; i < 40; i++)
        wides[i] = (struct zh_field)FIELD(i + 1, ZH_BYTES, ZH_IMPLICIT, 0, NULL);
    wides[40] = (struct zh_field)FIELD(41, ZH_SUBMESSAGE, ZH_REPEATED, 0, &thing);
    lay_out(&wide, wides, 41, 0);
    CHECK(thing.size <= ZH_IMAGE_NEAR && wide.size > ZH_IMAGE_NEAR);
#undef FIELD
}

const struct zh_field *field_of(const struct zh_layout *layout, uint32_t number)
{
    const struct zh_field *field = zh_layout_find(layout, number);
    CHECK(field != NULL);
    return field;
}

/* --- memory and messages ---------------------------------------------------------------------- */

static int memory_alloc(void *context, size_t bytes, struct zh_image_block *block)
{
    struct memory *memory = context;

    if (memory->left == 0)
        return -ENOMEM;
    memory->left--;
    memory->bytes += bytes;
    block->data = malloc(bytes);
    CHECK(block->data != NULL);
    memset(block->data, 0xa5, bytes); /* any content */
    block->bytes = bytes;
    block->ref = zh_ref_make(++memory->next, 64); /* an offset that is not 0 */
    return 0;
}

static void memory_release(void *context, struct zh_image_block *block)
{
    struct memory *memory = context;

    memory->bytes -= block->bytes;
    free(block->data);
}

static const struct zh_image_memory functions = {.alloc = memory_alloc, .release = memory_release};

void message_init(struct message *m, const struct zh_layout *layout)
{
    *m = (struct message){.layout = layout, .memory = {.left = UINT64_MAX}};
    m->inside = calloc(1, zh_image_root_least(layout));
    CHECK_EQ(zh_image_init(&m->image, layout, &functions, &m->memory, m->inside,
                           zh_image_root_least(layout)),
             0);
}

void message_free(struct message *m)
{
    zh_image_free(&m->image);
    free(m->inside);
    CHECK_EQ(m->memory.bytes, 0);
}

uint8_t *message_at(struct message *m)
{
    struct zh_space space;

    zh_image_space(&m->image, &space);
    const uint8_t *at = zh_space_root(&space, m->layout);
    CHECK(at != NULL);
    return (uint8_t *)(uintptr_t)at;
}

int message_decode(struct message *m, const void *bytes, size_t count)
{
    uint8_t *exact = malloc(count);
    uint64_t copied;

    if (count > 0)
        memcpy(exact, bytes, count);
    int error = zh_wire_decode(&m->image, m->layout, message_at(m), exact, count, &copied);
    free(exact);
    return error;
}

struct zh_wire_bytes message_encode(struct message *m, bool sorted)
{
    struct zh_space space;
    struct zh_wire_bytes out = {0};

    zh_image_space(&m->image, &space);
    CHECK_EQ(zh_wire_encode(&space, m->layout, message_at(m), sorted, &out), 0);
    CHECK_EQ(zh_wire_size(&space, m->layout, message_at(m)), out.bytes);
    return out;
}

/* --- wire bytes ------------------------------------------------------------------------------- */

static unsigned digit(char c)
{
    CHECK((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'));
    return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

size_t unhex(const char *text, uint8_t *to, size_t room)
{
    size_t count = strlen(text) / 2;

    CHECK(count <= room);
    for (size_t i = 0; i < count; i++)
        to[i] = (uint8_t)(digit(text[2 * i]) << 4 | digit(text[2 * i + 1]));
    return count;
}

void wire_raw(struct wire *w, const void *bytes, size_t count)
{
    if (w->used + count > w->room) {
        w->room = 2 * (w->used + count);
        w->data = realloc(w->data, w->room);
        CHECK(w->data != NULL);
    }
    if (count > 0)
        memcpy(w->data + w->used, bytes, count);
    w->used += count;
}

void wire_varint(struct wire *w, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        wire_raw(w, &(uint8_t){(uint8_t)(value | 0x80)}, 1);
    wire_raw(w, &(uint8_t){(uint8_t)value}, 1);
}

void wire_tag(struct wire *w, uint32_t number, uint32_t type)
{
    wire_varint(w, number << 3 | type);
}

void wire_number(struct wire *w, uint32_t number, uint64_t value)
{
    wire_tag(w, number, 0);
    wire_varint(w, value);
}

void wire_bytes(struct wire *w, uint32_t number, const void *bytes, size_t count)
{
    wire_tag(w, number, 2);
    wire_varint(w, count);
    wire_raw(w, bytes, count);
}

void wire_wrap(struct wire *w, uint32_t number)
{
    struct wire around = {0};

    wire_bytes(&around, number, w->data, w->used);
    wire_free(w);
    *w = around;
}

void wire_free(struct wire *w)
{
    free(w->data);
    *w = (struct wire){0};
}
