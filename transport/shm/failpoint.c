/* Failpoints of test builds; an empty file otherwise. */
#include "failpoint.h"

#ifdef ZH_FAILPOINTS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
#define ZH_FAILPOINT_NAME(name) #name,
    ZH_FAILPOINTS_LIST(ZH_FAILPOINT_NAME)
#undef ZH_FAILPOINT_NAME
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int armed = -1;
static char action;
static _Atomic long countdown = 1;

static void parse(void)
{
    const char *spec = getenv("ZEROHOP_FAILPOINT");
    if (spec == NULL)
        return;
    const char *colon = strchr(spec, ':');
    if (colon == NULL)
        abort();
    for (int i = 0; i < ZH_FAILPOINT_COUNT; i++) {
        if (strlen(names[i]) == (size_t)(colon - spec) &&
            memcmp(names[i], spec, (size_t)(colon - spec)) == 0)
            armed = i;
    }
    if (armed < 0)
        abort();
    action = colon[1];
    const char *nth = strchr(colon + 1, ':');
    if (nth != NULL)
        atomic_store(&countdown, strtol(nth + 1, NULL, 10));
}

void zh_failpoint_hit(enum zh_failpoint point)
{
    pthread_once(&once, parse);
    if ((int)point != armed || atomic_fetch_sub(&countdown, 1) != 1)
        return;
    if (action == 'k')
        kill(getpid(), SIGKILL);
    else if (action == 's')
        kill(getpid(), SIGSTOP);
    else
        _exit(77);
}

#else
typedef int zh_failpoint_unused; /* ISO C forbids an empty translation unit */
#endif
