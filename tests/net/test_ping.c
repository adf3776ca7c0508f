/* Echo requests, their answers, and what of all this a capture has. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "layers.h"

static unsigned answered;

static void done(struct zh_net_ping *ping)
{
    CHECK(ping->received != 0);
    answered++;
}

static struct sockaddr_in host(const void *address)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    memcpy(&v4.sin_addr, address, 4);
    return v4;
}

static int ask(struct zh_net *net, struct zh_net_ping *ping, const void *address)
{
    struct sockaddr_in v4 = host(address);
    int result = zh_net_ping(net, ping, (struct sockaddr *)&v4, sizeof v4, test_now);
    ether_flush(net);
    return result;
}

/* The answer to the request that was sent, from `src`, with byte `spoiled` of the message changed.
 */
static struct frame answer(const struct frame *request, const void *src, size_t spoiled)
{
    uint8_t message[2048];
    size_t size = request->size - 34;
    memcpy(message, request->data + 34, size);
    CHECK_EQ(message[0], ICMP_ECHO);
    CHECK(net_sum_fold(net_sum(message, size)) == 0xffff);
    message[0] = ICMP_ECHO_REPLY;
    if (spoiled)
        message[spoiled] ^= 1;
    icmp_sum(message, size);
    return ipv4_frame(src, OUR_IP, IPPROTO_ICMP, NULL, 0, 1, 0, message, size);
}

static void test_answers(void)
{
    static const uint16_t sizes[] = {0, 1, 56, 300, 1472};
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct zh_net_ping ping = {
            .identifier = 0xabcd, .sequence = (uint16_t)i, .size = sizes[i], .done = done};
        CHECK_EQ(ask(net, &ping, PEER_IP), 0);
        struct frame request = *sent();
        CHECK_EQ(request.size, 34u + 8 + sizes[i]);
        /* From somebody else, with another identifier, with another byte, too short. */
        struct frame wrong = answer(&request, "\x0a\x00\x00\x63", 0);
        input(net, &wrong);
        wrong = answer(&request, PEER_IP, 5);
        input(net, &wrong);
        if (sizes[i]) {
            wrong = answer(&request, PEER_IP, 8u + sizes[i] - 1);
            input(net, &wrong);
            uint8_t shorter[2048] = {ICMP_ECHO_REPLY};
            memcpy(shorter + 4, request.data + 38, 4u + sizes[i] - 1);
            icmp_sum(shorter, 8u + sizes[i] - 1);
            wrong = ipv4_frame(PEER_IP, OUR_IP, IPPROTO_ICMP, NULL, 0, 1, 0, shorter,
                               8u + sizes[i] - 1);
            input(net, &wrong);
        }
        CHECK_EQ(ping.received, 0);
        test_now += MS(3);
        struct frame right = answer(&request, PEER_IP, 0);
        input_segments(net, &right, 100);
        CHECK_EQ(ping.received - ping.sent, MS(3));
        CHECK_EQ(answered, i + 1);
        CHECK(net->pings == NULL);
        input(net, &right); /* twice: nobody waits */
        CHECK_EQ(answered, i + 1);
    }
    end_net(net);
}

static void test_refusals(void)
{
    struct zh_net *net = new_net(NULL);
    struct zh_net_ping ping = {.size = 1473};
    CHECK_EQ(ask(net, &ping, PEER_IP), -EMSGSIZE);
    struct sockaddr_in v4 = host(PEER_IP);
    CHECK_EQ(zh_net_ping(net, &ping, (struct sockaddr *)&v4, 3, test_now), -EINVAL);
    CHECK(net->pings == NULL);
    struct zh_net_ping one = {.sequence = 1}, other = {.sequence = 2};
    resolve_peer(net);
    CHECK_EQ(ask(net, &one, PEER_IP), 0);
    struct frame request = *sent();
    CHECK_EQ(ask(net, &other, PEER_IP), 0);
    CHECK(sent() != NULL);
    zh_net_ping_stop(net, &one);
    zh_net_ping_stop(net, &one);
    struct frame late = answer(&request, PEER_IP, 0);
    input(net, &late);
    CHECK_EQ(one.received, 0);
    CHECK(net->pings == &other && other.next == NULL);
    end_net(net); /* with one under way */
}

static void test_capture(void)
{
    struct zh_net *net = new_net(NULL);
    resolve_peer(net);
    char path[] = "/tmp/zh-pcap-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK_EQ(zh_net_capture(net, fd, SECONDS(1000000000)), 0);
    CHECK_EQ(zh_net_capture(net, fd, 0), -EBUSY);
    struct zh_net_ping ping = {.size = 56};
    CHECK_EQ(ask(net, &ping, PEER_IP), 0);
    struct frame request = *sent();
    struct frame reply = answer(&request, PEER_IP, 0);
    input_segments(net, &reply, 30);
    CHECK_EQ(zh_net_capture(net, -1, 0), 0);
    input(net, &reply); /* no longer */
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    uint32_t head[6], record[4];
    uint8_t data[98];
    CHECK_EQ(fread(head, sizeof head, 1, file), 1);
    CHECK_EQ(head[0], 0xa1b23c4d);
    CHECK_EQ(head[5], 1);
    for (int i = 0; i < 2; i++) {
        const struct frame *frame = i ? &reply : &request;
        CHECK_EQ(fread(record, sizeof record, 1, file), 1);
        CHECK_EQ(record[0], 1000000000 + test_now / SECONDS(1));
        CHECK_EQ(record[1], test_now % SECONDS(1));
        CHECK_EQ(record[2], frame->size);
        CHECK_EQ(record[3], frame->size);
        CHECK_EQ(fread(data, sizeof data, 1, file), 1);
        CHECK(memcmp(data, frame->data, frame->size) == 0);
    }
    CHECK_EQ(fread(data, 1, 1, file), 0);
    fclose(file);
    unlink(path);
    end_net(net);
}

int main(void)
{
    layers_start();
    test_answers();
    test_refusals();
    test_capture();
    return 0;
}
