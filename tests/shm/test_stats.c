#include "zerohop/stats.h"

#include <pthread.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 10000 };

static void *add_many(void *arg)
{
    for (int i = 0; i < ROUNDS; i++)
        zh_stat_add(ZH_STAT_WAKEUPS, 1);
    return arg;
}

int main(void)
{
    struct zh_stats_snapshot s;
    zh_stats_read(&s);
    CHECK_EQ(s.blocks_lent, 0);
    CHECK_EQ(s.streams_messages_received, 0);

    /* Each enumerator reaches the field of its name: first, last and one between. */
    zh_stat_add(ZH_STAT_BLOCKS_LENT, 3);
    zh_stat_add(ZH_STAT_BYTES_COPIED, UINT64_C(1) << 40);
    zh_stat_add(ZH_STAT_STREAMS_MESSAGES_RECEIVED, 7);
    zh_stats_read(&s);
    CHECK_EQ(s.blocks_lent, 3);
    CHECK_EQ(s.blocks_returned, 0);
    CHECK_EQ(s.bytes_copied, UINT64_C(1) << 40);
    CHECK_EQ(s.streams_messages_received, 7);

    /* No addition is lost between threads. */
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, add_many, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    zh_stats_read(&s);
    CHECK_EQ(s.wakeups, THREADS * ROUNDS);
    return 0;
}
