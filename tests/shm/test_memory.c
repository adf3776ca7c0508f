/* Available memory: what the kernel says of the machine, and of a real cgroup with a limit. */
#include "shm/memory.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "harness.h"
#include "zerohop/arena.h"

#define MIB (UINT64_C(1) << 20)

static uint64_t meminfo(const char *field)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/meminfo", "re");

    CHECK(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0)
            CHECK(sscanf(line + strlen(field), ": %llu kB", &kilobytes) == 1);
    }
    fclose(file);
    return kilobytes * 1024;
}

static void machine(void)
{
    uint64_t available = zh_memory_available(), total = meminfo("MemTotal");

    CHECK(total > 0);
    CHECK(available > 0 && available <= total);
    /* Without a cgroup's limit it is MemAvailable, which moves a little meanwhile. */
    CHECK(available <= meminfo("MemAvailable") + 256 * MIB);
    uint64_t limit = zh_arena_default_limit();
    CHECK(limit > 0 && limit <= 1024 * MIB && limit <= total / 8);
}

/* Where this process's memory cgroup lies; false when that is not to be seen. */
static bool find_group(char *path, size_t room, const char **limit_file)
{
    char line[1024], group[1024];
    bool found = false;
    FILE *file = fopen("/proc/self/cgroup", "re");

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        const char *second = strchr(strchr(line, ':') + 1, ':');
        snprintf(group, sizeof(group), "%s", second + 1);
        bool v1 = strstr(line, ":memory:") != NULL;
        if (!v1 && strncmp(line, "0::", 3) != 0)
            continue;
        snprintf(path, room, "/sys/fs/cgroup%s%.900s", v1 ? "/memory" : "", group);
        *limit_file = v1 ? "memory.limit_in_bytes" : "memory.max";
        found = found || access(path, W_OK) == 0;
        if (v1 && found)
            break;
    }
    if (file != NULL)
        fclose(file);
    return found;
}

static bool write_file(const char *directory, const char *name, const char *text)
{
    char path[2048];

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *file = fopen(path, "we");
    if (file == NULL)
        return false;
    bool written = fputs(text, file) >= 0;
    return fclose(file) == 0 && written;
}

static int in_group(void *arg)
{
    char pid[32];

    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (!write_file(arg, "cgroup.procs", pid))
        return 77;
    uint64_t available = zh_memory_available();
    fprintf(stderr, "available in a group of 64 MiB: %llu KiB\n",
            (unsigned long long)available / 1024);
    return available > 0 && available <= 64 * MIB && zh_arena_default_limit() <= 8 * MIB ? 0 : 1;
}

static void cgroup(void)
{
    char parent[2048], group[2100], nested[2200];
    const char *limit_file;

    if (!find_group(parent, sizeof(parent), &limit_file)) {
        fprintf(stderr, "no memory cgroup that can be written to: its limit is not tested\n");
        return;
    }
    snprintf(group, sizeof(group), "%s/zerohop-test-%d", parent, (int)getpid());
    snprintf(nested, sizeof(nested), "%s/nested", group);
    if (mkdir(group, 0755) != 0 || !write_file(group, limit_file, "67108864")) {
        fprintf(stderr, "no cgroup of one's own can be made: its limit is not tested\n");
        rmdir(group);
        return;
    }
    /* In the group itself, and in one below it that has no limit of its own. */
    expect_exit(spawn(in_group, group), 0, SECONDS(10));
    if (mkdir(nested, 0755) == 0) {
        expect_exit(spawn(in_group, nested), 0, SECONDS(10));
        CHECK(rmdir(nested) == 0);
    }
    CHECK(rmdir(group) == 0);
}

int main(void)
{
    machine();
    cgroup();
    return 0;
}
