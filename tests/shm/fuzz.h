/* The entry that libFuzzer calls, and our own driver where there is no libFuzzer. */
#ifndef ZEROHOP_TESTS_FUZZ_H
#define ZEROHOP_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
