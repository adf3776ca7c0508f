/* Layouts: tables as docs/image.md specifies them, checked and made into what the rest works with.
 */
#include <stdlib.h>
#include <string.h>

#include "wire_internal.h"

#define HEADER_BYTES 32u
#define MESSAGE_BYTES 24u
#define FIELD_BYTES 32u
#define ENUM_BYTES 8u

/* Numbers below this are found by one load. */
#define LOOKUP_MOST 4096u
#define NO_FIELD 0xffffu

/* A struct larger than this is no message that anybody meant. */
#define STRUCT_MOST (1u << 20)

struct zh_layouts {
    size_t count;
    struct zh_layout *layouts;
    struct zh_field *fields;
    uint16_t *lookups;
    int32_t *values;
    uint8_t *defaults;
};

/* The sections of a table, and what is made of them. */
struct parser {
    const uint8_t *table;
    uint32_t messages, externals, enums, field_count, value_count, default_bytes;
    const uint8_t *message_at, *field_at, *enum_at, *value_at, *default_at;
    const struct zh_layout *const *external;
    struct zh_layouts *made;
    const char *why;
};

static uint16_t load16(const uint8_t *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static bool fails(struct parser *p, const char *why)
{
    p->why = why;
    return false;
}

static bool parse_header(struct parser *p, size_t bytes)
{
    const uint8_t *t = p->table;

    if (bytes < HEADER_BYTES || memcmp(t, "ZHL1", 4) != 0)
        return fails(p, "not a layout table of version 1");
    p->messages = load16(t + 8);
    p->externals = load16(t + 10);
    p->enums = load16(t + 12);
    p->field_count = zh_load32(t + 16);
    p->value_count = zh_load32(t + 20);
    p->default_bytes = zh_load32(t + 24);
    if (zh_load32(t + 4) != bytes || load16(t + 14) != 0 || zh_load32(t + 28) != 0)
        return fails(p, "the header of the layout table is wrong");
    uint64_t need = HEADER_BYTES + (uint64_t)p->messages * MESSAGE_BYTES;
    p->message_at = t + HEADER_BYTES;
    p->field_at = t + need;
    need += (uint64_t)p->field_count * FIELD_BYTES;
    p->enum_at = t + need;
    need += (uint64_t)p->enums * ENUM_BYTES;
    p->value_at = t + need;
    need += ((uint64_t)p->value_count * 4 + 7) & ~(uint64_t)7;
    p->default_at = t + need;
    need += ((uint64_t)p->default_bytes + 7) & ~(uint64_t)7;
    if (need != bytes)
        return fails(p, "the sections of the layout table do not fill it");
    return true;
}

/* Bytes of one element, 0 for a kind that is none. */
static uint8_t width_of(uint8_t kind)
{
    static const uint8_t widths[] = {
        [ZH_DOUBLE] = 8,    [ZH_FLOAT] = 4,   [ZH_INT64] = 8,    [ZH_UINT64] = 8,
        [ZH_INT32] = 4,     [ZH_FIXED64] = 8, [ZH_FIXED32] = 4,  [ZH_BOOL] = 1,
        [ZH_STRING] = 16,   [ZH_BYTES] = 16,  [ZH_UINT32] = 4,   [ZH_ENUM] = 4,
        [ZH_SFIXED32] = 4,  [ZH_SINT32] = 4,  [ZH_SFIXED64] = 8, [ZH_SINT64] = 8,
        [ZH_SUBMESSAGE] = 8};

    return kind < sizeof(widths) ? widths[kind] : 0;
}

static bool parse_enum(struct parser *p, uint32_t index, struct zh_field *field)
{
    if (index >= p->enums)
        return fails(p, "a field of an enum that is not there");
    uint32_t first = zh_load32(p->enum_at + (size_t)index * ENUM_BYTES);
    uint32_t count = zh_load32(p->enum_at + (size_t)index * ENUM_BYTES + 4);
    if (first > p->value_count || count > p->value_count - first || count > UINT16_MAX)
        return fails(p, "an enum's values are outside the table");
    field->values = p->made->values + first;
    field->value_count = (uint16_t)count;
    for (uint32_t i = 1; i < count; i++) {
        if (field->values[i - 1] >= field->values[i])
            return fails(p, "an enum's values do not rise");
    }
    return true;
}

static bool parse_field(struct parser *p, const uint8_t *at, const struct zh_layout *layout,
                        struct zh_field *field)
{
    uint16_t place = load16(at + 12), index = load16(at + 14);

    field->number = zh_load32(at);
    field->kind = at[4];
    field->label = at[5];
    field->flags = at[6];
    field->offset = zh_load32(at + 8);
    field->width = width_of(field->kind);
    if (field->number == 0 || field->number >= 1u << 29)
        return fails(p, "a field's number is out of range");
    if (field->width == 0 || field->label > ZH_MAP || at[7] != 0 || zh_load64(at + 24) != 0)
        return fails(p, "a field of an unknown kind or label");
    field->tag = zh_tag(field->number, zh_wire_types[field->kind]);
    field->unit = field->label >= ZH_REPEATED ? 16 : field->width;
    uint32_t align = field->unit == 16 ? 8 : field->unit;
    uint32_t begin = ZH_PRESENCE_AT + 4 * ((layout->bits + 31u) / 32 + layout->oneofs);
    if (field->offset < begin || field->offset % align != 0 || field->unit > layout->size ||
        field->offset > layout->size - field->unit)
        return fails(p, "a field lies outside its struct");

    switch (field->label) {
    case ZH_OPTIONAL:
        if (place >= layout->bits || field->kind == ZH_SUBMESSAGE)
            return fails(p, "a presence bit that is not there");
        field->bit = place;
        break;
    case ZH_ONEOF:
        if (place >= layout->oneofs)
            return fails(p, "a oneof that is not there");
        field->case_at = (uint16_t)(ZH_PRESENCE_AT + 4 * ((layout->bits + 31u) / 32 + place));
        break;
    default:
        if (place != 0)
            return fails(p, "a field with the place of another");
    }
    if (field->kind == ZH_SUBMESSAGE) {
        if (index >= p->messages + p->externals)
            return fails(p, "a field of a message that is not there");
        field->type =
            index < p->messages ? &p->made->layouts[index] : p->external[index - p->messages];
    } else if (field->kind == ZH_ENUM && (field->flags & ZH_FIELD_CLOSED) != 0) {
        if (!parse_enum(p, index, field))
            return false;
    } else if (index != 0 || (field->flags & ZH_FIELD_CLOSED) != 0) {
        return fails(p, "a field with a type that it cannot have");
    }
    if (field->label == ZH_MAP && field->kind != ZH_SUBMESSAGE)
        return fails(p, "a map without entries");

    field->default_bits = zh_load64(at + 16);
    if (field->kind == ZH_STRING || field->kind == ZH_BYTES) {
        uint32_t offset = (uint32_t)field->default_bits;
        field->default_bytes = (uint32_t)(field->default_bits >> 32);
        if (offset > p->default_bytes || field->default_bytes > p->default_bytes - offset)
            return fails(p, "a default outside the table");
        field->default_data = p->made->defaults + offset;
        field->default_bits = 0;
    }
    return true;
}

/* The members of a oneof share one unit, as wide as the widest. */
static bool share_units(struct parser *p, const struct zh_layout *layout, struct zh_field *fields)
{
    for (uint32_t i = 0; i < layout->field_count; i++) {
        struct zh_field *f = &fields[i];
        for (uint32_t j = 0; f->label == ZH_ONEOF && j < layout->field_count; j++) {
            const struct zh_field *other = &fields[j];
            if (other->label != ZH_ONEOF || other->case_at != f->case_at)
                continue;
            if (other->offset != f->offset)
                return fails(p, "the members of a oneof do not share their place");
            if (other->width > f->unit)
                f->unit = other->width;
        }
    }
    return true;
}

/* No two units may overlap, but those of one oneof. `used` has an entry for each of the struct's
 * bytes. */
static bool check_overlap(struct parser *p, const struct zh_layout *layout, uint16_t *used)
{
    memset(used, 0, layout->size * sizeof(*used));
    for (uint32_t i = 0; i < layout->field_count; i++) {
        const struct zh_field *f = &layout->fields[i];
        uint16_t mark = f->label == ZH_ONEOF ? f->case_at : 1; /* 1 is no oneof's word */
        for (uint32_t b = f->offset; b < f->offset + f->unit; b++) {
            if (used[b] != 0 && (mark == 1 || used[b] != mark))
                return fails(p, "two fields lie on each other");
            used[b] = mark;
        }
    }
    return true;
}

static bool parse_message(struct parser *p, uint32_t index, uint32_t *next_field)
{
    const uint8_t *at = p->message_at + (size_t)index * MESSAGE_BYTES;
    struct zh_layout *layout = &p->made->layouts[index];
    uint32_t first = zh_load32(at + 4);

    layout->size = zh_load32(at);
    layout->field_count = load16(at + 8);
    layout->bits = load16(at + 10);
    layout->oneofs = load16(at + 12);
    layout->flags = load16(at + 14);
    layout->fields = p->made->fields + first;
    uint64_t least = ZH_PRESENCE_AT + 4 * ((layout->bits + 31ull) / 32 + layout->oneofs);
    if (layout->size % 8 != 0 || layout->size > STRUCT_MOST || layout->size < least ||
        least > UINT16_MAX)
        return fails(p, "a struct's size is wrong");
    if (first != *next_field || layout->field_count > p->field_count - first)
        return fails(p, "a message's fields are outside the table");
    if ((layout->flags & ~ZH_LAYOUT_ENTRY) != 0 || zh_load64(at + 16) != 0)
        return fails(p, "a message with unknown flags");
    *next_field = first + layout->field_count;

    uint32_t before = 0;
    for (uint32_t i = 0; i < layout->field_count; i++) {
        struct zh_field *field = &p->made->fields[first + i];
        if (!parse_field(p, p->field_at + (size_t)(first + i) * FIELD_BYTES, layout, field))
            return false;
        if (field->number <= before)
            return fails(p, "field numbers do not rise");
        before = field->number;
    }
    if (!share_units(p, layout, p->made->fields + first))
        return false;
    uint16_t *used = malloc(layout->size * sizeof(*used));
    if (used == NULL)
        return fails(p, "out of memory");
    bool good = check_overlap(p, layout, used);
    free(used);
    return good;
}

/* A map's entry type has a key and a value, of kinds that protobuf allows. */
static bool check_maps(struct parser *p)
{
    for (uint32_t i = 0; i < p->field_count; i++) {
        const struct zh_field *f = &p->made->fields[i];
        if (f->label != ZH_MAP)
            continue;
        const struct zh_layout *entry = f->type;
        if ((entry->flags & ZH_LAYOUT_ENTRY) == 0 || entry->field_count != 2 ||
            entry->fields[0].number != 1 || entry->fields[1].number != 2)
            return fails(p, "a map's entries have no key and value");
        uint8_t key = entry->fields[0].kind;
        if (key == ZH_DOUBLE || key == ZH_FLOAT || key == ZH_BYTES || key == ZH_SUBMESSAGE ||
            key == ZH_ENUM || entry->fields[0].label > ZH_OPTIONAL)
            return fails(p, "a map's key is of a kind that it cannot have");
        if (entry->fields[1].label > ZH_OPTIONAL)
            return fails(p, "a map's value is of a kind that it cannot have");
    }
    return true;
}

static bool make_lookups(struct parser *p)
{
    struct zh_layouts *made = p->made;
    size_t total = 0;

    for (size_t i = 0; i < made->count; i++) {
        struct zh_layout *l = &made->layouts[i];
        uint32_t last = l->field_count > 0 ? l->fields[l->field_count - 1].number : 0;
        /* Sparse numbers are searched for. */
        l->lookup_count =
            last + 1 <= LOOKUP_MOST && last + 1 <= 64u + 4u * l->field_count ? last + 1 : 64;
        total += l->lookup_count;
    }
    made->lookups = malloc(total * sizeof(uint16_t));
    if (made->lookups == NULL)
        return fails(p, "out of memory");
    uint16_t *next = made->lookups;
    for (size_t i = 0; i < made->count; i++) {
        struct zh_layout *l = &made->layouts[i];
        memset(next, 0xff, l->lookup_count * sizeof(uint16_t));
        for (uint32_t f = 0; f < l->field_count; f++) {
            if (l->fields[f].number < l->lookup_count)
                next[l->fields[f].number] = (uint16_t)f;
        }
        l->lookup = next;
        next += l->lookup_count;
    }
    return true;
}

static bool requires(const struct zh_layout *layout)
{
    for (uint32_t f = 0; f < layout->field_count; f++) {
        const struct zh_field *field = &layout->fields[f];
        if ((field->flags & ZH_FIELD_REQUIRED) != 0 ||
            (field->type != NULL && field->type->required))
            return true;
    }
    return false;
}

/* Which messages contain required fields, directly or not: until nothing changes any more. */
static void find_required(struct zh_layouts *made)
{
    bool changed;

    do {
        changed = false;
        for (size_t i = 0; i < made->count; i++) {
            struct zh_layout *l = &made->layouts[i];
            if (!l->required && requires(l))
                l->required = changed = true;
        }
    } while (changed);
}

static bool parse(struct parser *p, size_t bytes, size_t external_count)
{
    uint32_t next_field = 0;

    if (!parse_header(p, bytes))
        return false;
    if (p->externals != external_count)
        return fails(p, "the table names another number of external messages than were given");
    struct zh_layouts *made = p->made = calloc(1, sizeof(*made));
    if (made == NULL)
        return fails(p, "out of memory");
    made->count = p->messages;
    made->layouts = calloc(p->messages + 1u, sizeof(*made->layouts));
    made->fields = calloc(p->field_count + 1u, sizeof(*made->fields));
    made->values = malloc(p->value_count * 4u + 1u);
    made->defaults = malloc(p->default_bytes + 1u);
    if (made->layouts == NULL || made->fields == NULL || made->values == NULL ||
        made->defaults == NULL)
        return fails(p, "out of memory");
    memcpy(made->values, p->value_at, p->value_count * 4u);
    memcpy(made->defaults, p->default_at, p->default_bytes);
    for (uint32_t i = 0; i < p->messages; i++) {
        if (!parse_message(p, i, &next_field))
            return false;
    }
    if (next_field != p->field_count)
        return fails(p, "fields of no message");
    if (!check_maps(p) || !make_lookups(p))
        return false;
    find_required(made);
    return true;
}

struct zh_layouts *zh_layouts_parse(const void *table, size_t bytes,
                                    const struct zh_layout *const *externals, size_t external_count,
                                    const char **why)
{
    struct parser p = {.table = table, .external = externals};

    if (parse(&p, bytes, external_count))
        return p.made;
    *why = p.why;
    zh_layouts_free(p.made);
    return NULL;
}

size_t zh_layouts_count(const struct zh_layouts *layouts)
{
    return layouts->count;
}

struct zh_layout *zh_layouts_get(struct zh_layouts *layouts, size_t index)
{
    return &layouts->layouts[index];
}

void zh_layouts_free(struct zh_layouts *layouts)
{
    if (layouts == NULL)
        return;
    free(layouts->layouts);
    free(layouts->fields);
    free(layouts->lookups);
    free(layouts->values);
    free(layouts->defaults);
    free(layouts);
}

const struct zh_field *zh_layout_find(const struct zh_layout *layout, uint32_t number)
{
    if (number < layout->lookup_count) {
        uint16_t index = layout->lookup[number];
        return index == NO_FIELD ? NULL : &layout->fields[index];
    }
    uint32_t low = 0, high = layout->field_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (layout->fields[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < layout->field_count && layout->fields[low].number == number ? &layout->fields[low]
                                                                             : NULL;
}

/* --- the canonical form ----------------------------------------------------------------------- */

struct writer {
    uint8_t *to;
    size_t room, used;
};

static void put(struct writer *w, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++, value >>= 8) {
        if (w->used < w->room)
            w->to[w->used] = (uint8_t)value;
        w->used++;
    }
}

/* The messages in the order in which they are found. */
struct found {
    const struct zh_layout **list;
    size_t count, room;
};

/* The place of a layout, which is added if it is new; SIZE_MAX when out of memory. */
static size_t place_of(struct found *found, const struct zh_layout *layout)
{
    for (size_t i = 0; i < found->count; i++) {
        if (found->list[i] == layout)
            return i;
    }
    if (found->count > UINT16_MAX)
        return SIZE_MAX;
    if (found->count == found->room) {
        size_t room = found->room == 0 ? 16 : found->room * 2;
        const struct zh_layout **list = realloc(found->list, room * sizeof(*list));
        if (list == NULL)
            return SIZE_MAX;
        found->list = list;
        found->room = room;
    }
    found->list[found->count] = layout;
    return found->count++;
}

static bool put_field(struct writer *w, struct found *found, const struct zh_layout *layout,
                      const struct zh_field *field)
{
    size_t index = 0;

    if (field->type != NULL)
        index = place_of(found, field->type);
    else if (field->values != NULL)
        index = field->value_count;
    if (index == SIZE_MAX)
        return false;
    put(w, field->number, 4);
    put(w, field->kind, 1);
    put(w, field->label, 1);
    put(w, field->flags, 1);
    put(w, 0, 1);
    put(w, field->offset, 4);
    uint32_t words = ZH_PRESENCE_AT + 4 * ((layout->bits + 31u) / 32);
    put(w, field->label == ZH_ONEOF ? (field->case_at - words) / 4 : field->bit, 2);
    put(w, index, 2);
    for (uint32_t i = 0; field->values != NULL && i < field->value_count; i++)
        put(w, (uint32_t)field->values[i], 4);
    return true;
}

size_t zh_layout_canonical(const struct zh_layout *layout, uint8_t *to, size_t room)
{
    struct writer w = {.to = to, .room = room};
    struct found found = {0};
    bool good = place_of(&found, layout) == 0;

    put(&w, 0x314c485a, 4); /* ZHL1 */
    for (size_t i = 0; good && i < found.count; i++) {
        const struct zh_layout *l = found.list[i];
        put(&w, l->size, 4);
        put(&w, l->field_count, 2);
        put(&w, l->bits, 2);
        put(&w, l->oneofs, 2);
        put(&w, l->flags, 2);
        for (uint32_t f = 0; good && f < l->field_count; f++)
            good = put_field(&w, &found, l, &l->fields[f]);
    }
    free(found.list);
    return good ? w.used : 0;
}
