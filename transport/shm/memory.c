/* Available memory, from /proc and the cgroup file systems. */
#include "memory.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int read_file(const char *path, char *text, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, room - 1);
    close(fd);
    if (n < 0)
        return -1;
    text[n] = '\0';
    return 0;
}

/* A file that holds one number; "max" (v2) reads as no limit. */
static uint64_t read_number(const char *path)
{
    char text[64];

    if (read_file(path, text, sizeof(text)) != 0 || text[0] < '0' || text[0] > '9')
        return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

static uint64_t meminfo_available(void)
{
    char text[1024];

    if (read_file("/proc/meminfo", text, sizeof(text)) != 0)
        return UINT64_MAX;
    const char *line = strstr(text, "MemAvailable:");
    return line == NULL ? UINT64_MAX : strtoull(line + 13, NULL, 10) * 1024;
}

/* Walk from the process's group up to the root; the tightest of the limits on the way counts. */
static uint64_t walk(const char *mount, char *group, const char *limit_file, const char *usage_file)
{
    uint64_t least = UINT64_MAX;
    char path[4096];

    for (;;) {
        snprintf(path, sizeof(path), "%s%s/%s", mount, group, limit_file);
        uint64_t limit = read_number(path);
        if (limit != UINT64_MAX) {
            snprintf(path, sizeof(path), "%s%s/%s", mount, group, usage_file);
            uint64_t usage = read_number(path);
            uint64_t left = usage == UINT64_MAX ? limit : usage < limit ? limit - usage : 0;
            if (left < least)
                least = left;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL || group[0] == '\0')
            return least;
        *slash = '\0';
    }
}

static uint64_t cgroup_available(void)
{
    char text[4096];
    char *state = NULL;
    uint64_t least = UINT64_MAX;

    if (read_file("/proc/self/cgroup", text, sizeof(text)) != 0)
        return UINT64_MAX;
    for (char *line = strtok_r(text, "\n", &state); line != NULL;
         line = strtok_r(NULL, "\n", &state)) {
        char *controllers = strchr(line, ':');
        char *group = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (group == NULL)
            continue;
        *group++ = '\0';
        controllers++;
        uint64_t left = UINT64_MAX;
        if (controllers[0] == '\0')
            left = walk("/sys/fs/cgroup", group, "memory.max", "memory.current");
        else if (strstr(controllers, "memory") != NULL)
            left = walk("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                        "memory.usage_in_bytes");
        if (left < least)
            least = left;
    }
    return least;
}

uint64_t zh_memory_available(void)
{
    uint64_t machine = meminfo_available();
    uint64_t cgroup = cgroup_available();
    return machine < cgroup ? machine : cgroup;
}
