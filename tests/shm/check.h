/* CHECK(condition): says where and what, and ends the test. */
#ifndef ZEROHOP_TESTS_CHECK_H
#define ZEROHOP_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition);          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Equal integers; prints both. */
#define CHECK_EQ(left, right)                                                                      \
    do {                                                                                           \
        long long check_l_ = (long long)(left), check_r_ = (long long)(right);                     \
        if (check_l_ != check_r_) {                                                                \
            fprintf(stderr, "%s:%d: CHECK_EQ failed: %s is %lld, %s is %lld\n", __FILE__,          \
                    __LINE__, #left, check_l_, #right, check_r_);                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#endif
