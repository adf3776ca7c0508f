/* An echo server on zerohop's TCP/IP stack, in C:
 *
 *     cc echo.c -o echo $(pkg-config --cflags --libs zerohop)
 *     ./echo net_af_packet0,iface=veth1 10.77.0.1/24
 *
 * Then, from the other end of the veth pair: nc 10.77.0.1 7000. Ctrl-C ends it. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zerohop/loop.h"

static struct zh_loop *loop;
static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
    zh_loop_wake(loop);
}

/* Send back what has come; false: the connection has ended. Copying calls, for brevity: what is not
 * sent at once waits in `pending` (service.c in the library echoes without a copy). */
static int echo(struct zh_net_socket *socket)
{
    char buffer[16384];
    for (;;) {
        if (!(zh_net_ready(socket) & ZH_STREAM_OUT))
            return zh_net_send(socket, "", 0, 0) == -EAGAIN; /* to be told when there is room */
        ssize_t size = zh_net_recv(socket, buffer, sizeof buffer, 0);
        if (size <= 0)
            return size == -EAGAIN;
        for (ssize_t sent = 0, n; sent < size; sent += n)
            if ((n = zh_net_send(socket, buffer + sent, (size_t)(size - sent), 0)) < 0)
                return 0;
    }
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "echo: %s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv)
{
    char error[ZH_PORT_ERROR_SIZE];
    struct zh_port *port;
    struct zh_net *net;
    struct zh_net_socket *listener;
    struct zh_net_prefix address;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(7000)};
    if (argc != 3 || zh_net_prefix_parse(argv[2], &address)) {
        fprintf(stderr, "usage: %s DEVICE ADDRESS/LENGTH\n", argv[0]);
        return 2;
    }
    if (zh_port_open(&(struct zh_port_config){.device = argv[1]}, &port, error))
        return fail(argv[1], error);
    struct zh_net_config config = {.addresses = &address, .address_count = 1};
    if (zh_net_create(&config, port, &net, error))
        return fail(argv[2], error);
    int rc = zh_net_socket(net, AF_INET, &listener);
    if (!rc)
        rc = zh_net_bind(listener, (struct sockaddr *)&any, sizeof any);
    if (!rc)
        rc = zh_net_listen(listener, 128);
    if (!rc)
        rc = zh_loop_create(net, port, 0, &loop);
    if (rc)
        return fail("port 7000", strerror(-rc));
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    printf("echoing on port 7000\n");
    fflush(stdout);
    while (!stopped) {
        struct zh_net_event events[16];
        int count = zh_loop_run(loop, events, 16, UINT64_MAX);
        if (count == -ENETDOWN)
            return fail(argv[1], "the port has gone");
        for (int i = 0; i < count; i++) {
            struct zh_net_socket *socket = events[i].socket;
            if (socket == listener)
                while (zh_net_accept(listener, &socket) == 0)
                    if (!echo(socket))
                        zh_net_close(socket);
            if (socket != listener && socket == events[i].socket && !echo(socket))
                zh_net_close(socket);
        }
    }
    zh_loop_destroy(loop);
    zh_net_destroy(net);
    zh_port_close(port);
    return 0;
}
