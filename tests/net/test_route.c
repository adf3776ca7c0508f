/* Configurations, addresses, routes and path MTU. */
#include <arpa/inet.h>

#include "layers.h"

static struct zh_net_prefix prefix(const char *text)
{
    struct zh_net_prefix parsed;
    CHECK(zh_net_prefix_parse(text, &parsed) == 0);
    return parsed;
}

static struct net_addr addr(const char *text)
{
    struct zh_net_prefix parsed = prefix(text);
    struct net_addr address;
    if (parsed.family == AF_INET)
        return net_addr_v4(parsed.v4.s_addr);
    memcpy(&address, &parsed.v6, 16);
    return address;
}

static void test_parse(void)
{
    struct zh_net_prefix p = prefix("10.77.0.1/24");
    CHECK(p.family == AF_INET && p.length == 24 && p.v4.s_addr == inet_addr("10.77.0.1"));
    p = prefix("10.77.0.1");
    CHECK(p.length == 32);
    p = prefix("fd00::1/64");
    CHECK(p.family == AF_INET6 && p.length == 64 && p.v6.s6_addr[0] == 0xfd);
    CHECK(prefix("::").length == 128 && prefix("0.0.0.0/0").length == 0);
    static const char *const bad[] = {
        "",
        "/",
        "10.0.0.1/",
        "10.0.0.1/33",
        "10.0.0/8",
        "10.0.0.1/8x",
        "10.0.0.1/-1",
        "::/129",
        ":",
        "10.0.0.1/4294967304",
        "fd00::1%eth0/64",
        "example.org",
        " 10.0.0.1",
        "10.0.0.1/8/8",
        "1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111:1111/8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(zh_net_prefix_parse(bad[i], &p) == -EINVAL);
}

static void refuse(const struct zh_net_config *config, int errno_, const char *says)
{
    struct zh_net *net = (void *)1;
    char error[ZH_PORT_ERROR_SIZE];
    CHECK_EQ(zh_net_create(config, &test_port, &net, error), -errno_);
    CHECK(net == NULL);
    if (!strstr(error, says)) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", error, says);
        exit(1);
    }
    CHECK_EQ(zh_net_create(config, &test_port, &net, NULL), -errno_);
}

static void test_refused(void)
{
    struct zh_net_prefix addresses[65];
    struct zh_net_route route = {.destination = prefix("0.0.0.0/0"),
                                 .gateway = prefix("10.0.0.254")};
    struct zh_net_config good = {.addresses = addresses, .address_count = 1, .send_packets = 256};
    struct zh_net_config config = {0};
    for (int i = 0; i < 65; i++) {
        addresses[i] = prefix("10.0.0.1/24");
        addresses[i].v4.s_addr += rte_cpu_to_be_32((uint32_t)i);
    }
    refuse(&config, EINVAL, "needs an address");
    config = good;
    config.address_count = 65;
    refuse(&config, E2BIG, "64 addresses");
    config = good;
    config.mtu = 1501;
    refuse(&config, EINVAL, "1501 is more than the 1500 of the port test");
    config.mtu = 575;
    refuse(&config, EINVAL, "575 is too small: IPv4 needs 576");
    config = good;
    config.congestion_control = "vegas";
    refuse(&config, EINVAL, "\"vegas\"");
    config = good;
    config.send_packets = 1000000;
    refuse(&config, ENOMEM, "1000000 packets");
    static const char *const bad[] = {"10.0.0.0/24",  "10.0.0.255/24", "0.0.0.0/8",
                                      "224.0.0.1/24", "127.0.0.1/8",   "255.255.255.255",
                                      "::/64",        "::1/128",       "ff02::1/64"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        addresses[0] = prefix(bad[i]);
        refuse(&good, EINVAL, "is not a host's address");
    }
    addresses[0] = prefix("fd00::1/64");
    config = good;
    config.mtu = 1279;
    refuse(&config, EINVAL, "IPv6 needs 1280");
    addresses[0] = prefix("10.0.0.1/24");
    addresses[0].length = 33;
    refuse(&good, EINVAL, "33 bits");
    addresses[0].family = 99;
    refuse(&good, EAFNOSUPPORT, "family 99");
    addresses[0] = prefix("10.0.0.1/24");
    addresses[1] = prefix("10.0.0.1/16");
    config = good;
    config.address_count = 2;
    refuse(&config, EINVAL, "10.0.0.1 is given twice");
    config = good;
    config.routes = &route;
    config.route_count = 1;
    route.gateway = prefix("10.0.1.254");
    refuse(&config, ENETUNREACH, "The gateway 10.0.1.254 of the route to 0.0.0.0/0");
    route.gateway = prefix("10.0.0.1");
    refuse(&config, ENETUNREACH, "not be one itself");
    route.gateway = prefix("fd00::2");
    refuse(&config, EINVAL, "different families");
    /* A pair of addresses, and one alone. */
    struct zh_net *net;
    addresses[0] = prefix("10.0.0.0/31");
    addresses[1] = prefix("10.9.9.9");
    config = good;
    config.address_count = 2;
    CHECK(zh_net_create(&config, &test_port, &net, NULL) == 0);
    zh_net_destroy(net);
}

static void expect_route(struct zh_net *net, const char *dst, const char *next, const char *source,
                         bool datacenter)
{
    struct net_next_hop hop;
    struct net_addr to = addr(dst);
    if (!next) {
        CHECK(!net_route(net, &to, &hop));
        return;
    }
    struct net_addr via = addr(next), from = addr(source);
    CHECK(net_route(net, &to, &hop));
    CHECK(net_addr_equal(&hop.address, &via));
    CHECK(net_addr_equal(hop.source, &from));
    CHECK_EQ(hop.datacenter, datacenter);
}

static void test_routes(void)
{
    struct zh_net_prefix addresses[] = {prefix("10.0.0.1/24"), prefix("10.0.0.7/24"),
                                        prefix("10.0.0.9/28"), prefix("172.16.0.1/16"),
                                        prefix("fd00::1/64")};
    struct zh_net_route routes[] = {
        {prefix("10.0.0.0/8"), prefix("172.16.0.254"), false},
        {prefix("10.1.0.0/16"), prefix("10.0.0.254"), true},
        {prefix("10.1.2.0/23"), prefix("172.16.9.9"), false},
        {prefix("10.1.2.3/32"), prefix("10.0.0.3"), false},
        {prefix("::/0"), prefix("fe80::1"), false},
        {prefix("fd01::/16"), prefix("fd00::9"), true},
    };
    struct zh_net_config config = {
        .addresses = addresses, .address_count = 5, .routes = routes, .route_count = 6};
    struct zh_net *net = new_net(&config);
    memset(addresses, 0, sizeof addresses); /* copies were made */
    memset(routes, 0, sizeof routes);
    expect_route(net, "10.0.0.99", "10.0.0.99", "10.0.0.1", false);
    expect_route(net, "10.0.0.2", "10.0.0.2", "10.0.0.9", false);
    expect_route(net, "172.16.3.4", "172.16.3.4", "172.16.0.1", false);
    expect_route(net, "10.2.0.1", "172.16.0.254", "172.16.0.1", false);
    expect_route(net, "10.1.0.1", "10.0.0.254", "10.0.0.1", true);
    expect_route(net, "10.1.3.255", "172.16.9.9", "172.16.0.1", false);
    expect_route(net, "10.1.2.3", "10.0.0.3", "10.0.0.9", false);
    expect_route(net, "11.0.0.1", NULL, NULL, false);
    expect_route(net, "fd00::5", "fd00::5", "fd00::1", false);
    expect_route(net, "fd01::5", "fd00::9", "fd00::1", true);
    expect_route(net, "2001:db8::1", "fe80::1", "fd00::1", false);
    expect_route(net, "fe80::5", "fe80::5", "fe80::ff:fe00:1", false);
    struct net_addr own = addr("fe80::ff:fe00:1"), other = addr("10.0.0.2");
    CHECK(net_is_own(net, &own) && !net_is_own(net, &other));
    own = addr("172.16.0.1");
    CHECK(net_is_own(net, &own));
    CHECK_EQ(send_tcp(net, "\x0b\x00\x00\x01", 20), -EHOSTUNREACH);
    CHECK_EQ(net->stats.ip_out_no_route, 1);
    end_net(net);
}

static void test_path_mtu(void)
{
    struct zh_net *net = new_net(NULL);
    struct net_addr a = addr("8.8.8.8"), b = addr("fd01::1");
    CHECK_EQ(net_path_mtu(net, &a), 1500);
    CHECK_EQ(net_path_lower(net, &a, 1500), 1500);
    CHECK_EQ(net_path_lower(net, &a, 1400), 1400);
    CHECK_EQ(net_path_lower(net, &a, 1450), 1400); /* only ever lower: RFC 8201 section 4 */
    CHECK_EQ(net_path_mtu(net, &a), 1400);
    CHECK_EQ(net_path_lower(net, &a, 68), 576);
    CHECK_EQ(net_path_lower(net, &b, 600), 1280);
    CHECK_EQ(net_path_mtu(net, &b), 1280);
    poll_at(net, test_now + SECONDS(599));
    CHECK_EQ(net_path_mtu(net, &a), 576);
    poll_at(net, test_now + SECONDS(1)); /* RFC 1191 section 6.3 */
    CHECK_EQ(net_path_mtu(net, &a), 1500);
    /* The size is not told: RFC 1191 section 7.1. */
    CHECK_EQ(net_path_lower(net, &a, 0), 1492);
    CHECK_EQ(net_path_lower(net, &a, 0), 1006);
    CHECK_EQ(net_path_lower(net, &a, 0), 576);
    CHECK_EQ(net_path_lower(net, &a, 0), 576);
    /* More paths than are kept: the oldest go. */
    for (unsigned i = 0; i < 1000; i++) {
        poll_at(net, test_now + MS(1));
        a.words[3] = i;
        CHECK_EQ(net_path_lower(net, &a, 1300), 1300);
    }
    CHECK_EQ(net_path_mtu(net, &a), 1300);
    a.words[3] = 1000 - 64;
    CHECK_EQ(net_path_mtu(net, &a), 1300);
    a.words[3] = 1000 - 65;
    CHECK_EQ(net_path_mtu(net, &a), 1500);
    end_net(net);
}

/* A pool lives as long as one of its packets. */
static void test_late_packet(void)
{
    struct zh_net *net = new_net(NULL);
    struct rte_mbuf *late = net_packet_alloc(net);
    uint8_t *data = (void *)rte_pktmbuf_append(late, 100);
    end_net(net);
    memset(data, 1, 100);
    net = new_net(NULL);
    memset(data, 2, 100);
    rte_pktmbuf_free(late);
    end_net(net);
    for (int i = 0; i < 100; i++) /* or memory would not last */
        end_net(new_net(&(struct zh_net_config){.send_packets = 8192}));
}

int main(void)
{
    layers_start();
    test_parse();
    test_refused();
    test_routes();
    test_path_mtu();
    test_late_packet();
    return 0;
}
