/* DPDK's log: to whoever asked for it, else nowhere; the last errors are kept for sentences. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <rte_log.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "eal.h"
#include "zerohop/port.h"

enum { LINE_SIZE = 256, LINES_KEPT = 3 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*sink)(int level, const char *line);
static char line[LINE_SIZE]; /* what was written since the last newline */
static size_t line_size;
static char kept[LINES_KEPT][LINE_SIZE];
static unsigned kept_count; /* of all errors; the last LINES_KEPT are in `kept` */

static void keep(const char *text)
{
    for (unsigned i = 0; i < LINES_KEPT && i < kept_count; i++)
        if (strcmp(kept[i], text) == 0)
            return;
    memcpy(kept[kept_count++ % LINES_KEPT], text, strlen(text) + 1);
}

static void end_line(int level)
{
    while (line_size && (line[line_size - 1] == ' ' || line[line_size - 1] == '.'))
        line_size--;
    line[line_size] = 0;
    if (line_size && level <= (int)RTE_LOG_ERR)
        keep(line);
    if (line_size && sink)
        sink(level, line);
    line_size = 0;
}

/* The stream's: rte_log flushes after each message, so the level is still that message's. */
static ssize_t write_log(void *cookie, const char *data, size_t size)
{
    (void)cookie;
    int level = rte_log_cur_msg_loglevel();
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n')
            end_line(level);
        else if (line_size < LINE_SIZE - 1)
            line[line_size++] = data[i];
    }
    pthread_mutex_unlock(&lock);
    return (ssize_t)size;
}

int eal_log_start(void)
{
    FILE *stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_log});
    if (!stream)
        return -ENOMEM;
    rte_openlog_stream(stream);
    return 0;
}

static int bpf_line(int level, const char *format, va_list arguments)
{
    (void)level;
    return rte_vlog(RTE_LOG_WARNING, RTE_LOGTYPE_PMD, format, arguments);
}

void eal_log_bpf(void)
{
    static const char *const libraries[][2] = {{"libbpf.so.1", "libbpf_set_print"},
                                               {"libbpf.so.0", "libbpf_set_print"},
                                               {"libxdp.so.1", "libxdp_set_print"}};
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        void *library = dlopen(libraries[i][0], RTLD_LAZY | RTLD_NOLOAD);
        void *(*set_print)(int (*)(int, const char *, va_list)) = NULL;
        if (library)
            *(void **)&set_print = dlsym(library, libraries[i][1]);
        if (set_print)
            set_print(bpf_line);
        if (library)
            dlclose(library); /* its driver holds it */
    }
}

void zh_eal_set_log(void (*log)(int level, const char *line))
{
    pthread_mutex_lock(&lock);
    sink = log;
    pthread_mutex_unlock(&lock);
}

void eal_log_forget(void)
{
    pthread_mutex_lock(&lock);
    kept_count = 0;
    pthread_mutex_unlock(&lock);
}

bool eal_log_errors(char *text, size_t size)
{
    size_t used = 0;
    pthread_mutex_lock(&lock);
    unsigned first = kept_count > LINES_KEPT ? kept_count - LINES_KEPT : 0;
    text[0] = 0;
    for (unsigned i = first; i < kept_count && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? "; " : "",
                                 kept[i % LINES_KEPT]);
    pthread_mutex_unlock(&lock);
    return used > 0;
}

int eal_error(char *error, int code, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error, ZH_PORT_ERROR_SIZE, format, arguments);
        va_end(arguments);
    }
    return code;
}
