/* The descriptors that a device's driver has opened, which it does not tell of: found by comparing
 * what is open before and after. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port_device.h"

enum { DESCRIPTORS_MAX = sizeof((struct port_descriptors *)0)->open * 8 };

void port_descriptors_now(struct port_descriptors *now)
{
    memset(now, 0, sizeof *now);
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        long number = strtol(entry->d_name, NULL, 10); /* "." is 0: no matter, it is not ours */
        if (number >= 0 && number < DESCRIPTORS_MAX && number != dirfd(directory))
            now->open[number / 64] |= UINT64_C(1) << (number % 64);
    }
    if (directory)
        closedir(directory);
}

static bool is_socket(int descriptor, int family, int interface_index)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    struct sockaddr_ll address = {0};
    if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != family)
        return false;
    size = sizeof address;
    return family != AF_PACKET ||
           (getsockname(descriptor, (struct sockaddr *)&address, &size) == 0 &&
            address.sll_ifindex == interface_index && address.sll_protocol != 0);
}

static bool is_tap(int descriptor)
{
    char link[64], path[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    return size > 0 && (path[size] = 0, strcmp(path, "/dev/net/tun") == 0);
}

int port_descriptors_find(const struct port_descriptors *before, int family, int interface_index)
{
    struct port_descriptors *now = malloc(sizeof *now);
    int found = -1;
    if (!now)
        return -1;
    port_descriptors_now(now);
    for (int i = 0; i < DESCRIPTORS_MAX && found < 0; i++) {
        uint64_t added = now->open[i / 64] & ~before->open[i / 64];
        if (!added)
            i |= 63; /* none of this word */
        else if (added >> (i % 64) & 1)
            if (family ? is_socket(i, family, interface_index) : is_tap(i))
                found = i;
    }
    free(now);
    return found;
}

/* --- a tap's signals -------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t signal_thread; /* 0: not started */
static pthread_cond_t started = PTHREAD_COND_INITIALIZER;

static void *take_signals(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    signal_thread = gettid();
    pthread_cond_signal(&started);
    pthread_mutex_unlock(&lock);
    sigset_t taken;
    sigfillset(&taken);
    for (int i = SIGRTMIN; i <= SIGRTMAX; i++)
        sigdelset(&taken, i);
    for (;;)
        sigsuspend(&taken);
    return NULL;
}

/* The driver has its signal sent to the process; any thread's sleep would end with each packet. */
int port_tap_signals(int descriptor)
{
    pthread_mutex_lock(&lock);
    if (!signal_thread) {
        pthread_t thread;
        sigset_t every, before;
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        int failed = pthread_create(&thread, NULL, take_signals, NULL);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (failed) {
            pthread_mutex_unlock(&lock);
            return -failed;
        }
        pthread_detach(thread);
        while (!signal_thread)
            pthread_cond_wait(&started, &lock);
    }
    struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = signal_thread};
    pthread_mutex_unlock(&lock);
    return fcntl(descriptor, F_SETOWN_EX, &owner) == 0 ? 0 : -errno;
}
