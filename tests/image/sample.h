/*
 * What the tests of images share: layouts of three messages, memory that can run out, and messages
 * in both. Every function here ends the test when it cannot do its work.
 *
 * The layouts are those of
 *
 *   edition = "2023";
 *   enum Closed { option features.enum_type = CLOSED; C_0 = 0; C_2 = 2; C_M3 = -3; }
 *   message Thing {
 *     int32 small = 1 [features.field_presence = IMPLICIT];   // these to 7: IMPLICIT
 *     sint32 zigzag = 2; uint64 large = 3; bool flag = 4; fixed32 fixed = 5; double ratio = 6;
 *     string text = 7;
 *     bytes data = 8; int64 maybe = 9; Closed closed = 10;
 *     repeated int32 packed = 11; repeated int32 single = 12 [EXPANDED];
 *     repeated bool flags = 13; repeated fixed32 fixeds = 14; repeated string texts = 15;
 *     repeated Closed closeds = 16;
 *     Thing thing = 17; repeated Thing things = 18;
 *     oneof one { int32 number = 19; Thing other = 20; string word = 21; }
 *     map<int32, Closed> closed_by = 22; map<string, Thing> thing_by = 23; map<int32, int32> by =
 * 24; repeated sint64 zigzags = 25; repeated double ratios = 26 [EXPANDED]; repeated Hollow hollows
 * = 27; map<bool, bytes> by_flag = 28; map<uint64, string> by_large = 29; float weight = 2000;
 *   }
 *   message Hollow { repeated Hollow many = 1; Hollow left = 2; Hollow right = 3; }
 *   message Wide { bytes b1 = 1; ... bytes b40 = 40; repeated Thing things = 41; }  // IMPLICIT
 */
#ifndef ZEROHOP_TESTS_SAMPLE_H
#define ZEROHOP_TESTS_SAMPLE_H

#include "zerohop/image.h"

/* Made by samples_init, which every test calls first. */
extern struct zh_layout thing, hollow, wide;
void samples_init(void);

/* A field of one of them. */
const struct zh_field *field_of(const struct zh_layout *layout, uint32_t number);

/* Memory by malloc, each block of just its size for the sanitizers. */
struct memory {
    uint64_t left;  /* blocks that it still gives */
    uint64_t bytes; /* that it has given and not got back */
    uint32_t next;  /* number of the next segment */
};

/* A message that is being built. */
struct message {
    const struct zh_layout *layout;
    struct zh_image image;
    struct memory memory;
    uint8_t *inside; /* of just zh_image_root_least(layout) bytes, as little as can be */
};

void message_init(struct message *m, const struct zh_layout *layout);
void message_free(struct message *m);
/* Its struct, until something is allocated. */
uint8_t *message_at(struct message *m);
/* Merge bytes, from memory of just their size. The result of zh_wire_decode. */
int message_decode(struct message *m, const void *bytes, size_t count);
/* Encode it; also the size must be right. The result is the caller's to free. */
struct zh_wire_bytes message_encode(struct message *m, bool sorted);

/* Bytes of a text of hexadecimal digits; returns how many. */
size_t unhex(const char *text, uint8_t *to, size_t room);

/* A buffer to put wire bytes together. */
struct wire {
    uint8_t *data;
    size_t used, room;
};
void wire_raw(struct wire *w, const void *bytes, size_t count);
void wire_varint(struct wire *w, uint64_t value);
void wire_tag(struct wire *w, uint32_t number, uint32_t type);
void wire_number(struct wire *w, uint32_t number, uint64_t value);
void wire_bytes(struct wire *w, uint32_t number, const void *bytes, size_t count);
/* A message of this one alone, with the number of the field that holds it. */
void wire_wrap(struct wire *w, uint32_t number);
void wire_free(struct wire *w);

#endif
