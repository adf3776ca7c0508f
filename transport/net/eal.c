/* EAL, DPDK's environment: started once per process and never again, with arguments that neither
 * need root nor pin threads nor leave files. Debian's 22.11 takes about 140 ms for it, of which it
 * sleeps 100 to learn the clock's rate. */
#include "eal.h"

#include <errno.h>
#include <getopt.h>
#include <glob.h>
#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_memory.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zerohop/fork.h"
#include "zerohop/port.h"

enum {
    ARGUMENTS_MAX = 64,
    /* Of memory without hugepages. It is reserved, not committed: pages come with their first use.
     * Room for a port's and a stack's packets at MTU 9000. */
    MEMORY_MIB = 512,
    /* Fewer hugepages than this are left alone: a port and a stack would not fit. */
    HUGE_MIB_MIN = 128,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool running;
static char *started_with; /* the user's arguments; owned */
static uint32_t fork_generation;
static pthread_key_t thread_key; /* set in threads that we registered */

struct arguments {
    char *values[ARGUMENTS_MAX + 1];
    int count;
    bool failed; /* no memory, or too many */
};

static void add(struct arguments *arguments, const char *value)
{
    char *copy = arguments->count < ARGUMENTS_MAX ? strdup(value) : NULL;
    if (copy)
        arguments->values[arguments->count++] = copy;
    else
        arguments->failed = true;
}

/* Whether one of the user's arguments is among `names` (space before and after each). */
static bool has(const struct arguments *extra, const char *names)
{
    for (int i = 0; i < extra->count; i++) {
        const char *value = extra->values[i];
        size_t size = value[0] == '-' && value[1] == '-' ? strcspn(value, "=") : 2;
        char name[40];
        if (value[0] != '-' || strlen(value) < 2 || size > sizeof name - 3)
            continue;
        snprintf(name, sizeof name, " %.*s ", (int)size, value);
        if (strstr(names, name))
            return true;
    }
    return false;
}

static uint64_t free_huge_mib(void)
{
    uint64_t mib = 0;
    glob_t found;
    if (glob("/sys/kernel/mm/hugepages/hugepages-*kB/free_hugepages", 0, NULL, &found) != 0)
        return 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        unsigned long long pages, kib;
        FILE *file = fopen(found.gl_pathv[i], "re");
        if (!file)
            continue;
        if (sscanf(found.gl_pathv[i], "/sys/kernel/mm/hugepages/hugepages-%llukB", &kib) == 1 &&
            fscanf(file, "%llu", &pages) == 1)
            mib += pages * kib / 1024;
        fclose(file);
    }
    globfree(&found);
    return mib;
}

/* One EAL thread that may run wherever this thread may: "0@(0,2,3)". False: it does not fit. */
static bool lcores(char *text, size_t size)
{
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return false;
    size_t used = (size_t)snprintf(text, size, "0@(");
    for (int first = 0; first < CPU_SETSIZE; first++) {
        if (!CPU_ISSET(first, &cpus))
            continue;
        int last = first;
        while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &cpus))
            last++;
        used +=
            (size_t)snprintf(text + used, size - used, "%s%d-%d", used > 3 ? "," : "", first, last);
        if (used + 2 > size)
            return false;
        first = last;
    }
    snprintf(text + used, size - used, ")");
    return true;
}

/* Ours, where the user has not given others, then the user's. */
static void build(struct arguments *arguments, const struct arguments *extra)
{
    char text[1024];
    add(arguments, "zerohop");
    if (!has(extra, " --no-huge --in-memory --huge-dir --legacy-mem --huge-unlink --proc-type ")) {
        if (free_huge_mib() >= HUGE_MIB_MIN) {
            add(arguments, "--in-memory");
        } else {
            add(arguments, "--no-huge");
            add(arguments, "--no-shconf");
        }
    }
    if (!has(extra, " --in-memory -m --socket-mem --proc-type ") &&
        (arguments->count == 1 || strcmp(arguments->values[1], "--in-memory") != 0)) {
        add(arguments, "-m");
        snprintf(text, sizeof text, "%d", MEMORY_MIB);
        add(arguments, text);
    }
    if (!has(extra, " --telemetry --no-telemetry "))
        add(arguments, "--no-telemetry");
    /* No device is probed at the start, and NICs can be opened later: an allow list with an address
     * that no device has. --no-pci would forbid them for good. */
    if (!has(extra, " -a --allow -b --block --no-pci ")) {
        add(arguments, "-a");
        add(arguments, "ffff:ff:1f.7");
    }
    if (!has(extra, " -c -l --lcores --main-lcore ") && lcores(text, sizeof text)) {
        add(arguments, "--lcores");
        add(arguments, text);
    }
    if (!has(extra, " --file-prefix ")) {
        add(arguments, "--file-prefix");
        snprintf(text, sizeof text, "zh%d", (int)getpid());
        add(arguments, text);
    }
    for (int i = 0; i < extra->count; i++)
        add(arguments, extra->values[i]);
    arguments->failed |= extra->failed;
}

static void free_arguments(struct arguments *arguments)
{
    for (int i = 0; i < arguments->count; i++)
        free(arguments->values[i]);
}

static void unregister_thread(void *registered)
{
    (void)registered;
    if (!eal_is_forked())
        rte_thread_unregister();
}

/* A child reads zeros where its parent has packets (DESIGN invariant 9; docs/architecture.md). */
static int track(const struct rte_memseg_list *list, void *error)
{
    int result = zh_fork_track_mapping(list->base_va, list->len);
    if (result != 0)
        *(int *)error = result;
    return 0;
}

struct start {
    struct arguments *arguments;
    int result, error;
};

/* EAL takes the thread that starts it for its first and sets its affinity: a thread of our own, so
 * that the caller's keeps what it has. EAL's threads inherit that signals are not theirs. */
static void *start_thread(void *opaque)
{
    struct start *start = opaque;
    char *values[ARGUMENTS_MAX + 1]; /* getopt changes their order */
    memcpy(values, start->arguments->values, sizeof values);
    values[start->arguments->count] = NULL;
    int complain = opterr;
    opterr = 0;
    start->result = rte_eal_init(start->arguments->count, values);
    start->error = rte_errno;
    opterr = complain;
    return NULL;
}

static int start_eal(const char *extra, char *error)
{
    struct arguments of_user = {.count = 0}, all = {.count = 0};
    char *copy = strdup(extra ? extra : ""), *rest = NULL;
    of_user.failed = !copy;
    for (char *value = copy ? strtok_r(copy, " \t\n", &rest) : NULL; value;
         value = strtok_r(NULL, " \t\n", &rest))
        add(&of_user, value);
    free(copy);
    build(&all, &of_user);
    struct start start = {.arguments = &all, .result = -1, .error = ENOMEM};
    int result = all.failed ? -ENOMEM : eal_log_start();
    if (result == 0) {
        pthread_t thread;
        sigset_t every, before;
        sigfillset(&every);
        eal_log_forget();
        pthread_sigmask(SIG_SETMASK, &every, &before);
        result = -pthread_create(&thread, NULL, start_thread, &start);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (result == 0)
            pthread_join(thread, NULL);
    }
    free_arguments(&all);
    free_arguments(&of_user);
    /* A directory that --no-shconf does not use, yet makes; one in use is not empty. */
    rmdir(rte_eal_get_runtime_dir());
    if (result != 0)
        return eal_error(error, result, "cannot start DPDK: %s", strerror(-result));
    if (start.result < 0) {
        char log[300];
        result = start.error ? -start.error : -EINVAL;
        if (start.error == EALREADY)
            return eal_error(error, -EIO,
                             "DPDK failed to start earlier in this process and cannot start again: "
                             "correct what was wrong then and start the process anew");
        if (!eal_log_errors(log, sizeof log))
            snprintf(log, sizeof log, "%s", strerror(-result));
        return eal_error(error, result, "cannot start DPDK%s%s%s: %s",
                         extra ? " with the arguments \"" : "", extra ? extra : "",
                         extra ? "\" (correct them, or leave them out)" : "", log);
    }
    eal_log_bpf();
    return 0;
}

int zh_eal_start(const char *extra, char *error)
{
    int result = 0;
    pthread_mutex_lock(&lock);
    if (!running) {
        result = start_eal(extra, error);
        if (result == 0) {
            started_with = strdup(extra ? extra : "");
            fork_generation = zh_fork_now();
            running = true;
            int failed = pthread_key_create(&thread_key, unregister_thread);
            rte_memseg_list_walk(track, &result);
            if (failed != 0 || result != 0 || !started_with)
                result = eal_error(error, -ENOMEM, "cannot start DPDK: out of memory");
        }
    } else if (eal_is_forked()) {
        result = eal_error(error, -ENOTSUP,
                           "DPDK was started before this process was forked and cannot be used "
                           "here: start it in the child only, or use spawn instead of fork");
    } else if (extra && strcmp(extra, started_with) != 0) {
        result = eal_error(
            error, -EALREADY,
            "DPDK already runs in this process with the arguments \"%s\"; it starts once: "
            "give the same arguments everywhere, or give them to the first port only",
            started_with);
    }
    pthread_mutex_unlock(&lock);
    if (result == 0)
        zh_eal_thread();
    return result;
}

int zh_eal_thread(void)
{
    if (!running || eal_is_forked())
        return -ENODEV;
    if (rte_lcore_id() != LCORE_ID_ANY)
        return 0;
    if (rte_thread_register() != 0)
        return -rte_errno;
    pthread_setspecific(thread_key, &thread_key);
    return 0;
}

bool eal_is_forked(void)
{
    return running && fork_generation != zh_fork_now();
}
