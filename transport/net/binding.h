/* What zerohop.transport.net._net has beside the public headers, so that Python is not called back
 * from within the stack: it collects what is to be released, and asks for it. Included by the
 * source that cffi generates, and by nothing else. The stack's thread, except where it says
 * otherwise. */
#ifndef ZEROHOP_NET_BINDING_H
#define ZEROHOP_NET_BINDING_H

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "zerohop/bridge.h"
#include "zerohop/fork.h"
#include "zerohop/loop.h"

/* --- what was sent ---------------------------------------------------------------------------- */

/* One record of Python's that the stack reads; its address is its name there. */
struct binding_loan {
    struct binding_loans *loans;
    struct binding_loan *next; /* of those that are back */
};

struct binding_loans {
    struct binding_loan *back; /* released, and not yet asked for; owned */
    size_t out;                /* not yet released */
};

static void binding_loan_back(void *opaque)
{
    struct binding_loan *loan = opaque;
    loan->next = loan->loans->back;
    loan->loans->back = loan;
    loan->loans->out--;
}

/* Send the pieces as one record. 0, with the loan's name, or a negative errno. */
static int binding_send(struct zh_net_socket *socket, struct binding_loans *loans,
                        const struct iovec *pieces, unsigned count, uintptr_t *name)
{
    struct binding_loan *loan = malloc(sizeof *loan);
    if (!loan)
        return -ENOMEM;
    loan->loans = loans;
    loans->out++;
    struct zh_stream_record record = {pieces, count, binding_loan_back, loan};
    int sent = zh_net_send_records(socket, &record, 1);
    if (sent != 1) {
        loans->out--;
        free(loan);
        return sent ? sent : -EAGAIN;
    }
    *name = (uintptr_t)loan;
    return 0;
}

/* The names of up to `count` loans that are back; they are forgotten. */
static size_t binding_loans_back(struct binding_loans *loans, uintptr_t *names, size_t count)
{
    size_t given = 0;
    while (given < count && loans->back) {
        struct binding_loan *loan = loans->back;
        loans->back = loan->next;
        names[given++] = (uintptr_t)loan;
        free(loan);
    }
    return given;
}

/* --- what was received ------------------------------------------------------------------------ */

static uint32_t binding_generation; /* that stacks were made under */

static int binding_take(struct zh_net_socket *socket, struct zh_stream_segment *segments,
                        unsigned count)
{
    binding_generation = zh_fork_now();
    return zh_net_take(socket, segments, count);
}

/* A view is gone: any thread. In a child its packet is the parent's, and reads as zeros. */
static void binding_release(struct zh_stream_segment *segment, const uint8_t *data)
{
    (void)data;
    if (zh_fork_now() == binding_generation)
        zh_net_release(segment);
}

/* --- echo requests ---------------------------------------------------------------------------- */

struct binding_ping {
    struct zh_net_ping ping; /* first */
    struct zh_loop *loop;    /* to end the run of when the answer comes */
};

static void binding_ping_done(struct zh_net_ping *ping)
{
    zh_loop_wake(((struct binding_ping *)ping)->loop);
}

static int binding_ping(struct zh_net *net, struct binding_ping *ping,
                        const struct sockaddr_storage *peer, socklen_t length)
{
    ping->ping.done = binding_ping_done;
    return zh_net_ping(net, &ping->ping, (const struct sockaddr *)peer, length, zh_loop_now());
}

/* --- addresses -------------------------------------------------------------------------------- */

/* 0 or -EINVAL. */
static int binding_address(const char *host, uint16_t port, struct sockaddr_storage *out,
                           socklen_t *length)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    memset(out, 0, sizeof *out);
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(out, &v4, *length = sizeof v4);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(out, &v6, *length = sizeof v6);
        return 0;
    }
    return -EINVAL;
}

/* The family; the address as text (INET6_ADDRSTRLEN) and the port. */
static int binding_host(const struct sockaddr_storage *address, char *host, uint16_t *port)
{
    if (address->ss_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, address, sizeof v6);
        inet_ntop(AF_INET6, &v6.sin6_addr, host, INET6_ADDRSTRLEN);
        *port = ntohs(v6.sin6_port);
    } else {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof v4);
        inet_ntop(AF_INET, &v4.sin_addr, host, INET6_ADDRSTRLEN);
        *port = ntohs(v4.sin_port);
    }
    return address->ss_family;
}

#endif
