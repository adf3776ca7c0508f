#include "zerohop/stats.h"

struct zh_stats zh_stats;

void zh_stats_read(struct zh_stats_snapshot *out)
{
#define X(name, field)                                                                             \
    out->field = atomic_load_explicit(&zh_stats.counter[ZH_STAT_##name], memory_order_relaxed);
    ZH_STATS(X)
#undef X
}

const char *zh_version(void)
{
    return ZH_VERSION;
}
