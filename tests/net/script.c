/* See script.h. The port keeps what the stack sends; lines are parsed, played and compared here.
 * Nothing of the stack's own parsing is used: a mistake there must not hide itself. */
#include "script.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <rte_errno.h>
#include <rte_mempool.h>
#include <stdarg.h>
#include <string.h>

enum {
    POOL_PACKETS = 1023,
    PACKETS_MAX = 1024, /* sent and not yet expected */
    BLOCKS_MAX = 4,
    ETHER = 14,
    IPV4 = 20,
    IPV6 = 40,
    TCP = 20,
    TYPE_IPV4 = 0x0800,
    TYPE_ARP = 0x0806,
    TYPE_IPV6 = 0x86dd,
    SOLICITATION = 78, /* with the option of a link-layer address: 40 + 24 + 8, and Ethernet's 14 */
    POLLS_MAX = 10000, /* without time going by */
    TRACE_LINES = 400,
    LINE = 320,
    FIRST_TIMESTAMP = 100,
};

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 1}, peer_mac[6] = {2, 0, 0, 0, 0, 2};
static const char our_address[] = "10.0.0.1", peer_address[] = "10.0.0.2";
static const uint8_t our_address_v6[16] = {0xfd, [15] = 1}, peer_address_v6[16] = {0xfd, [15] = 2};

/* Near the end, so that every test of more than a few hundred bytes wraps. */
#define PEER_ISN UINT32_C(0xffffff00)
#define START (1000 * NET_SECOND)

/* A packet, its numbers relative to the flow's. */
struct packet {
    uint64_t at;
    uint32_t seq, size, ack;
    uint32_t window;
    uint8_t flags;
    uint8_t ecn;
    bool has_window, has_ecn, any_options;
    bool has_mss, has_shift, sack_permitted, has_timestamps;
    uint16_t mss;
    uint8_t shift;
    unsigned blocks;
    uint32_t tsval, tsecr, block[BLOCKS_MAX][2];
    uint8_t options[40]; /* as they stand in a line of the peer's */
    unsigned options_size;
    /* of the stack's only */
    uint16_t local_port, peer_port;
    bool bad_payload;
    /* an ICMP error about seq:size */
    bool icmp;
    uint8_t type, code;
    uint16_t mtu;
};

struct flow {
    uint16_t local_port, peer_port;
    uint32_t iss, ts_base;
    bool has_iss, has_ts_base;
    uint64_t sent, received; /* bytes of the two streams that the test has handed over and got */
};

struct zh_net *script_net;
uint64_t script_now;
bool script_ipv6;

static struct rte_mempool *pool;
static const char *test_name = "";
static struct flow flows[SCRIPT_FLOWS], *flow = flows;

/* Of the stack, not yet expected; raw, since the script tells the timestamps' base. */
static struct {
    uint64_t at;
    struct rte_mbuf *frame;
} sent[PACKETS_MAX];
static unsigned sent_first, sent_end;
static bool arp_asked, nd_asked;
static uint8_t arp_question[28], nd_question[16]; /* of ND: who asks */

static char trace[TRACE_LINES][LINE];
static unsigned traced;

/* What is being played, for messages. */
static const char *play_file, *play_text;
static int play_line;

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...)
{
    char *line = trace[traced++ % TRACE_LINES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, LINE, format, arguments);
    va_end(arguments);
}

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *format, ...)
{
    va_list arguments;
    unsigned first = traced > TRACE_LINES ? traced - TRACE_LINES : 0;
    fprintf(stderr, "%s: what was sent and received:\n", test_name);
    for (unsigned i = first; i < traced; i++)
        fprintf(stderr, "    %s\n", trace[i % TRACE_LINES]);
    if (play_text)
        fprintf(stderr, "%s:%d: %s\n", play_file, play_line, play_text);
    fprintf(stderr, "%s: at %.9f: ", test_name, (double)(script_now - START) / 1e9);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    exit(1);
}

/* --- bytes and sums ----------------------------------------------------------------------------
 */

static uint16_t get16(const uint8_t *from)
{
    return (uint16_t)(from[0] << 8 | from[1]);
}

static uint32_t get32(const uint8_t *from)
{
    return (uint32_t)get16(from) << 16 | get16(from + 2);
}

static void put16(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 8);
    to[1] = (uint8_t)value;
}

static void put32(uint8_t *to, uint32_t value)
{
    put16(to, value >> 16);
    put16(to + 2, value & 0xffff);
}

/* RFC 1071, the simplest way. Of data with a right sum: 0xffff. */
static uint32_t sum16(uint32_t sum, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        sum += i & 1 ? data[i] : (uint32_t)data[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

static size_t ip_header(void)
{
    return script_ipv6 ? IPV6 : IPV4;
}

/* The pseudo-header of an IP packet. */
static uint32_t sum_pseudo(const uint8_t *ip, uint8_t protocol, size_t size)
{
    uint8_t rest[4] = {0, protocol, (uint8_t)(size >> 8), (uint8_t)size};
    uint32_t sum = script_ipv6 ? sum16(0, ip + 8, 32) : sum16(0, ip + 12, 8);
    return sum16(sum, rest, sizeof rest);
}

/* The byte at a place of a flow's stream: what was sent is known wherever it comes. */
static uint8_t stream_byte(bool inward, uint64_t at)
{
    uint64_t x = (at + 1) * UINT64_C(0x9e3779b97f4a7c15) + inward;
    return (uint8_t)(x >> 32 ^ x >> 56);
}

/* --- packets as text ----------------------------------------------------------------------------
 */

static size_t describe_options(const struct packet *p, char *out, size_t room)
{
    size_t n = 0;
    const char *comma = "";
#define ADD(...)                                                                                   \
    do {                                                                                           \
        n += (size_t)snprintf(out + n, n < room ? room - n : 0, "%s", comma);                      \
        n += (size_t)snprintf(out + n, n < room ? room - n : 0, __VA_ARGS__);                      \
        comma = ",";                                                                               \
    } while (0)
    if (p->has_mss)
        ADD("mss %u", p->mss);
    if (p->sack_permitted)
        ADD("sackOK");
    if (p->has_timestamps)
        ADD("TS val %u ecr %u", p->tsval, p->tsecr);
    if (p->has_shift)
        ADD("wscale %u", p->shift);
    for (unsigned i = 0; i < p->blocks; i++) {
        if (i) {
            comma = " ";
            ADD("%u:%u", p->block[i][0], p->block[i][1]);
        } else {
            ADD("sack %u:%u", p->block[i][0], p->block[i][1]);
        }
    }
#undef ADD
    return n;
}

static const char *describe(const struct packet *p)
{
    static char texts[2][LINE];
    static unsigned which;
    char *out = texts[which++ & 1], flags[16], *f = flags, options[160] = "", window[24] = "";
    if (p->icmp) {
        snprintf(out, LINE, "[%u:%u(%u)] icmp type %u code %u mtu %u", p->seq, p->seq + p->size,
                 p->size, p->type, p->code, p->mtu);
        return out;
    }
    static const struct {
        uint8_t flag;
        char letter;
    } letters[] = {{TCP_SYN, 'S'}, {TCP_FIN, 'F'}, {TCP_RST, 'R'}, {TCP_PSH, 'P'},
                   {TCP_ECE, 'E'}, {TCP_CWR, 'W'}, {TCP_URG, 'U'}, {TCP_ACK, '.'}};
    for (unsigned i = 0; i < sizeof letters / sizeof *letters; i++)
        if (p->flags & letters[i].flag)
            *f++ = letters[i].letter;
    *f = '\0';
    char ack[24] = "";
    if (p->flags & TCP_ACK)
        snprintf(ack, sizeof ack, " ack %u", p->ack);
    if (p->has_window)
        snprintf(window, sizeof window, " win %u", p->window);
    describe_options(p, options, sizeof options);
    static const char *const ecn[] = {"[noecn] ", "[ect1] ", "[ect0] ", "[ce] "};
    bool some = p->any_options || options[0];
    snprintf(out, LINE, "%s%s %u:%u(%u)%s%s%s%s%s", p->has_ecn && p->ecn ? ecn[p->ecn] : "",
             *flags ? flags : "-", p->seq, p->seq + p->size, p->size, ack, window, some ? " <" : "",
             p->any_options ? "..." : options, some ? ">" : "");
    return out;
}

/* --- text as packets ----------------------------------------------------------------------------
 */

static const char *at; /* in the line */

static void skip_space(void)
{
    while (isspace((unsigned char)*at))
        at++;
}

static bool has(const char *word)
{
    skip_space();
    size_t size = strlen(word);
    if (strncmp(at, word, size) != 0 ||
        (isalnum((unsigned char)word[size - 1]) && isalnum((unsigned char)at[size])))
        return false;
    at += size;
    return true;
}

static void need(const char *word)
{
    if (!has(word))
        fail("the script's line has no \"%s\" at \"%s\"", word, at);
}

static uint32_t number(void)
{
    skip_space();
    char *end;
    unsigned long value = strtoul(at, &end, 10);
    if (end == at)
        fail("the script's line has no number at \"%s\"", at);
    at = end;
    return (uint32_t)value;
}

/* Seconds with up to nine decimals, exactly. */
static uint64_t seconds(void)
{
    uint64_t whole = 0, part = 0, unit = NET_SECOND;
    if (!isdigit((unsigned char)*at) && *at != '.')
        fail("the script's line has no time at \"%s\"", at);
    while (isdigit((unsigned char)*at))
        whole = whole * 10 + (uint64_t)(*at++ - '0');
    if (*at == '.')
        for (at++; isdigit((unsigned char)*at); at++)
            part += (uint64_t)(*at - '0') * (unit /= 10);
    return whole * NET_SECOND + part;
}

/* Sequence space `start:end(size)`; SYN and FIN are not counted, as in packetdrill. */
static void parse_range(struct packet *p)
{
    p->seq = number();
    need(":");
    uint32_t end = number();
    need("(");
    p->size = number();
    need(")");
    if (end - p->seq != p->size)
        fail("the script's line has a size that is not that of its sequence numbers");
}

static void option_bytes(struct packet *p, uint8_t kind, uint8_t size)
{
    if (p->options_size + size > sizeof p->options)
        fail("the script's line has more than 40 bytes of options");
    p->options[p->options_size++] = kind;
    if (size > 1)
        p->options[p->options_size++] = size;
}

static void option_value(struct packet *p, unsigned size, uint32_t value)
{
    for (; size > 0; size--)
        p->options[p->options_size++] = (uint8_t)(value >> 8 * (size - 1));
}

/* The numbers that the stack knows: those of an option of the peer's are turned into them. */
static void parse_option(struct packet *p)
{
    if (has("mss")) {
        p->has_mss = true;
        p->mss = (uint16_t)number();
        option_bytes(p, 2, 4);
        option_value(p, 2, p->mss);
    } else if (has("wscale")) {
        p->has_shift = true;
        p->shift = (uint8_t)number();
        option_bytes(p, 3, 3);
        option_value(p, 1, p->shift);
    } else if (has("sackOK")) {
        p->sack_permitted = true;
        option_bytes(p, 4, 2);
    } else if (has("sack")) {
        uint8_t *size = &p->options[p->options_size + 1];
        option_bytes(p, 5, 2);
        do {
            if (p->blocks == BLOCKS_MAX || p->options_size + 8 > sizeof p->options)
                fail("the script's line has too many blocks");
            p->block[p->blocks][0] = number();
            need(":");
            p->block[p->blocks][1] = number();
            option_value(p, 4, p->block[p->blocks][0] + flow->iss);
            option_value(p, 4, p->block[p->blocks++][1] + flow->iss);
            *size = (uint8_t)(*size + 8);
            skip_space();
        } while (isdigit((unsigned char)*at));
    } else if (has("TS")) {
        need("val");
        p->has_timestamps = true;
        p->tsval = number();
        need("ecr");
        p->tsecr = number();
        option_bytes(p, 8, 10);
        option_value(p, 4, p->tsval);
        option_value(p, 4, p->tsecr + (p->tsecr ? flow->ts_base : 0));
    } else if (has("nop")) {
        option_bytes(p, 1, 1);
    } else if (has("eol")) {
        option_bytes(p, 0, 1);
    } else {
        fail("the script's line has an unknown option at \"%s\"", at);
    }
}

static bool parse_ecn(struct packet *p)
{
    static const char *const names[] = {"[noecn]", "[ect1]", "[ect0]", "[ce]"};
    for (uint8_t i = 0; i < 4; i++)
        if (has(names[i])) {
            p->ecn = i;
            return p->has_ecn = true;
        }
    return false;
}

static void parse_icmp(struct packet *p)
{
    static const struct {
        const char *name;
        uint8_t type, code;
    } kinds[] = {
        {"unreachable net_unreachable", 3, 0},
        {"unreachable host_unreachable", 3, 1},
        {"unreachable protocol_unreachable", 3, 2},
        {"unreachable port_unreachable", 3, 3},
        {"unreachable frag_needed", 3, 4},
        {"unreachable admin_prohibited", 3, 13},
        {"packet_too_big", 2, 0}, /* ICMPv6 */
        {"source_quench", 4, 0},
        {"time_exceeded", 11, 0},
        {"parameter_problem", 12, 0},
    };
    need("[");
    p->icmp = true;
    parse_range(p);
    need("]");
    need("icmp");
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (has(kinds[i].name)) {
            p->type = kinds[i].type;
            p->code = kinds[i].code;
            if (has("mtu"))
                p->mtu = (uint16_t)number();
            return;
        }
    fail("the script's line has an unknown ICMP error at \"%s\"", at);
}

static void parse_packet(struct packet *p)
{
    *p = (struct packet){0};
    skip_space();
    if (!parse_ecn(p) && *at == '[') {
        parse_icmp(p);
        return;
    }
    skip_space();
    for (; *at && !isspace((unsigned char)*at); at++) {
        static const char letters[] = "FSRP.UEW"; /* in the order of their bits */
        const char *found = strchr(letters, *at);
        if (*at == '-')
            continue;
        if (!found)
            fail("the script's line has no flags at \"%s\"", at);
        p->flags |= (uint8_t)(1 << (found - letters));
    }
    parse_range(p);
    if (has("ack"))
        p->ack = number();
    if (has("win")) {
        p->has_window = true;
        p->window = number();
    }
    if (!has("<"))
        return;
    if (has("...")) {
        p->any_options = true;
        need(">");
        return;
    }
    do
        parse_option(p);
    while (has(","));
    need(">");
}

/* --- the port -----------------------------------------------------------------------------------
 */

static void answer_arp(void)
{
    uint8_t reply[60] = {0};
    memcpy(reply, our_mac, 6);
    memcpy(reply + 6, peer_mac, 6);
    put16(reply + 12, TYPE_ARP);
    memcpy(reply + 14, (const uint8_t[]){0, 1, 8, 0, 6, 4, 0, 2}, 8);
    memcpy(reply + 22, peer_mac, 6);
    memcpy(reply + 28, arp_question + 24, 4); /* whom it asked for */
    memcpy(reply + 32, arp_question + 8, 10); /* who asked */
    struct rte_mbuf *frame = rte_pktmbuf_alloc(pool);
    CHECK(frame != NULL);
    memcpy(rte_pktmbuf_append(frame, sizeof reply), reply, sizeof reply);
    zh_net_input(script_net, frame, script_now);
}

/* A neighbour solicitation, to be answered: a packet of IPv6 that no line is about. */
static bool read_solicitation(struct rte_mbuf *frame)
{
    uint8_t head[SOLICITATION];
    const uint8_t *data = rte_pktmbuf_read(frame, 0, ETHER + IPV6 + 1, head);
    if (!data || get16(data + 12) != TYPE_IPV6 || data[ETHER + 6] != IPPROTO_ICMPV6)
        return false;
    data = rte_pktmbuf_read(frame, 0, SOLICITATION, head);
    CHECK(data != NULL);
    if (data[ETHER + IPV6] == 135 &&
        memcmp(data + ETHER + IPV6 + 8, peer_address_v6, sizeof peer_address_v6) == 0) {
        nd_asked = true;
        memcpy(nd_question, data + ETHER + 8, sizeof nd_question);
    }
    rte_pktmbuf_free(frame);
    return true;
}

static void answer_nd(void)
{
    uint8_t ip[IPV6 + 32] = {0x60, [5] = 32, [6] = IPPROTO_ICMPV6, [7] = 255}, *icmp = ip + IPV6;
    memcpy(ip + 8, peer_address_v6, 16);
    memcpy(ip + 24, nd_question, 16);
    icmp[0] = 136;
    icmp[4] = 0x60; /* solicited, override */
    memcpy(icmp + 8, peer_address_v6, 16);
    icmp[24] = 2; /* its link-layer address */
    icmp[25] = 1;
    memcpy(icmp + 26, peer_mac, 6);
    put16(icmp + 2, ~sum16(sum_pseudo(ip, IPPROTO_ICMPV6, 32), icmp, 32) & 0xffff);
    script_input(ip, sizeof ip);
}

static uint16_t port_send(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    for (uint16_t i = 0; i < count; i++) {
        struct rte_mbuf *frame = packets[i];
        const char *reason;
        uint8_t head[42];
        if (rte_mbuf_check(frame, 1, &reason) != 0)
            fail("a packet is broken: %s", reason);
        if (frame->nb_segs > port->max_segments)
            fail("a packet has %u segments", frame->nb_segs);
        const uint8_t *data = rte_pktmbuf_read(frame, 0, ETHER, head);
        if (!data)
            fail("a frame has %u bytes", frame->pkt_len);
        if (get16(data + 12) == TYPE_ARP) {
            data = rte_pktmbuf_read(frame, 0, 42, head);
            CHECK(data != NULL);
            /* A question, and no announcement of its own address. */
            if (get16(data + 20) == 1 && memcmp(data + 28, data + 38, 4) != 0) {
                arp_asked = true;
                memcpy(arp_question, data + 14, sizeof arp_question);
            }
            rte_pktmbuf_free(frame);
            continue;
        }
        if (script_ipv6 && read_solicitation(frame))
            continue;
        if (sent_end - sent_first == PACKETS_MAX)
            fail("the stack has sent %d packets that nobody expected", PACKETS_MAX);
        sent[sent_end % PACKETS_MAX].at = script_now;
        sent[sent_end++ % PACKETS_MAX].frame = frame;
    }
    return count;
}

static uint16_t port_receive(struct zh_port *port, struct rte_mbuf **packets, uint16_t count)
{
    (void)port, (void)packets, (void)count;
    return 0;
}

static void port_reclaim(struct zh_port *port)
{
    (void)port;
}

static const struct zh_port_ops port_ops = {
    .send = port_send, .receive = port_receive, .reclaim = port_reclaim};
static struct zh_port port = {.ops = &port_ops, .name = "script", .mtu = 1500, .max_segments = 8};

/* --- what the stack has sent ---------------------------------------------------------------------
 */

static void read_options(struct packet *p, const uint8_t *options, size_t size)
{
    for (size_t i = 0; i < size;) {
        uint8_t kind = options[i], length = 1;
        if (kind == 0)
            return;
        if (kind != 1) {
            if (i + 1 >= size || options[i + 1] < 2 || i + options[i + 1] > size)
                fail("a packet's option %u has a wrong length", kind);
            length = options[i + 1];
        }
        const uint8_t *value = options + i + 2;
        bool right = true;
        switch (kind) {
        case 1:
            break;
        case 2:
            right = length == 4 && !p->has_mss;
            p->has_mss = true;
            p->mss = get16(value);
            break;
        case 3:
            right = length == 3 && !p->has_shift;
            p->has_shift = true;
            p->shift = *value;
            break;
        case 4:
            right = length == 2 && !p->sack_permitted;
            p->sack_permitted = true;
            break;
        case 5:
            right = length >= 10 && (length - 2) % 8 == 0 && !p->blocks;
            for (int b = 2; b < length; b += 8) {
                p->block[p->blocks][0] = get32(options + i + b) - PEER_ISN;
                p->block[p->blocks++][1] = get32(options + i + b + 4) - PEER_ISN;
            }
            break;
        case 8:
            right = length == 10 && !p->has_timestamps;
            p->has_timestamps = true;
            p->tsval = get32(value);
            p->tsecr = get32(value + 4);
            break;
        default:
            right = false;
        }
        if (!right)
            fail("a packet's option %u is wrong", kind);
        i += length;
    }
}

static void check_ipv4(const uint8_t *ip, uint32_t size)
{
    struct in_addr address;
    if (ip[0] != 0x45 || get16(ip + 2) != size || sum16(0, ip, IPV4) != 0xffff)
        fail("an IP header is wrong: its first byte %02x, its length %u of %u, its checksum", ip[0],
             get16(ip + 2), size);
    if (!(ip[6] & 0x40) || ip[8] < 64 || ip[9] != IPPROTO_TCP)
        fail("an IP header has flags %02x, TTL %u, protocol %u", ip[6], ip[8], ip[9]);
    inet_pton(AF_INET, our_address, &address);
    if (memcmp(ip + 12, &address, 4) != 0)
        fail("a packet has a wrong source address");
    inet_pton(AF_INET, peer_address, &address);
    if (memcmp(ip + 16, &address, 4) != 0)
        fail("a packet has a wrong destination address");
}

static void check_ipv6(const uint8_t *ip, uint32_t payload)
{
    if (ip[0] >> 4 != 6 || get16(ip + 4) != payload || ip[6] != IPPROTO_TCP || ip[7] < 64)
        fail("an IP header is wrong: its first byte %02x, its length %u of %u, protocol %u, hop "
             "limit %u",
             ip[0], get16(ip + 4), payload, ip[6], ip[7]);
    if (memcmp(ip + 8, our_address_v6, 16) != 0 || memcmp(ip + 24, peer_address_v6, 16) != 0)
        fail("a packet has a wrong address");
}

/* Parse and check the first packet that was sent; its numbers become relative. It stays there. */
static void read_sent(struct packet *p)
{
    static uint8_t copy[16384];
    struct rte_mbuf *frame = sent[sent_first % PACKETS_MAX].frame;
    uint32_t size = frame->pkt_len;
    *p = (struct packet){.at = sent[sent_first % PACKETS_MAX].at};
    CHECK(size <= sizeof copy);
    const uint8_t *data = rte_pktmbuf_read(frame, 0, size, copy);
    if (memcmp(data, peer_mac, 6) != 0 || memcmp(data + 6, our_mac, 6) != 0)
        fail("a frame has a wrong MAC address");
    if (get16(data + 12) != (script_ipv6 ? TYPE_IPV6 : TYPE_IPV4) ||
        size < ETHER + ip_header() + TCP)
        fail("a frame of type %04x with %u bytes was sent", get16(data + 12), size);
    const uint8_t *ip = data + ETHER;
    uint32_t tcp_size = size - ETHER - (uint32_t)ip_header();
    if (script_ipv6)
        check_ipv6(ip, tcp_size);
    else
        check_ipv4(ip, size - ETHER);
    const uint8_t *tcp = ip + ip_header();
    uint32_t header = (uint32_t)(tcp[12] >> 4) * 4;
    if (sum16(sum_pseudo(ip, IPPROTO_TCP, tcp_size), tcp, tcp_size) != 0xffff)
        fail("a segment has a wrong checksum");
    if (header < TCP || header > tcp_size || tcp[12] & 0x0f || get16(tcp + 18))
        fail("a segment's header is wrong");
    p->has_ecn = p->has_window = true;
    p->ecn = (script_ipv6 ? ip[1] >> 4 : ip[1]) & 3;
    p->local_port = get16(tcp);
    p->peer_port = get16(tcp + 2);
    p->flags = tcp[13];
    p->window = get16(tcp + 14);
    p->size = tcp_size - header;
    if (p->local_port == flow->local_port && p->peer_port == flow->peer_port &&
        p->flags & TCP_SYN && !flow->has_iss) {
        flow->iss = get32(tcp + 4);
        flow->has_iss = true;
    }
    p->seq = get32(tcp + 4) - flow->iss;
    p->ack = get32(tcp + 8) - PEER_ISN;
    read_options(p, tcp + TCP, header - TCP);
    if (p->has_timestamps) {
        if (!flow->has_ts_base)
            flow->ts_base = p->tsval - FIRST_TIMESTAMP;
        flow->has_ts_base = true;
        p->tsval -= flow->ts_base;
    }
    for (uint32_t i = 0; i < p->size; i++) /* byte 0 of the stream has number 1 */
        if (tcp[header + i] != stream_byte(false, (uint64_t)(p->seq + i) - 1))
            p->bad_payload = true;
}

static bool is_sent(void)
{
    return sent_first != sent_end;
}

static void drop_sent(void)
{
    rte_pktmbuf_free(sent[sent_first++ % PACKETS_MAX].frame);
}

static void refuse_sent(const char *why)
{
    struct packet got;
    read_sent(&got);
    if (got.local_port != flow->local_port || got.peer_port != flow->peer_port)
        fail("%s; got, of ports %u and %u (not of this flow):\n  %s", why, got.local_port,
             got.peer_port, describe(&got));
    fail("%s; got, at %.9f:\n  %s", why, (double)(got.at - START) / 1e9, describe(&got));
}

/* --- time ----------------------------------------------------------------------------------------
 */

/* Poll at this time until nothing is left to be done now. When it next wants to be polled. */
static uint64_t poll_now(void)
{
    for (unsigned i = 0; i < POLLS_MAX; i++) {
        uint64_t next = zh_net_poll(script_net, script_now);
        if (arp_asked) {
            arp_asked = false;
            answer_arp();
            continue;
        }
        if (nd_asked) {
            nd_asked = false;
            answer_nd();
            continue;
        }
        if (next > script_now)
            return next;
    }
    fail("the stack wants to be polled at once, again and again");
}

/* Go to a time; before it, nothing may be sent. */
static void go_to(uint64_t time)
{
    uint64_t next = poll_now();
    for (;;) {
        if (is_sent())
            refuse_sent("nothing is expected yet");
        if (next >= time)
            break;
        script_now = next;
        next = poll_now();
    }
    script_now = time;
}

/* Run the timers until a packet is sent; false: none is before `latest` has gone by. */
static bool wait_sent(uint64_t latest)
{
    while (!is_sent()) {
        uint64_t next = poll_now();
        if (is_sent())
            break;
        if (next > latest)
            return false;
        script_now = next;
    }
    return true;
}

/* --- playing -------------------------------------------------------------------------------------
 */

static void input_bytes(const uint8_t *ip, size_t size, uint8_t *head)
{
    struct rte_mbuf *frame = rte_pktmbuf_alloc(pool);
    CHECK(frame != NULL);
    memcpy(head, our_mac, 6);
    memcpy(head + 6, peer_mac, 6);
    put16(head + 12, ip[0] >> 4 == 6 ? TYPE_IPV6 : TYPE_IPV4);
    memcpy(rte_pktmbuf_append(frame, ETHER), head, ETHER);
    uint8_t *data = (uint8_t *)rte_pktmbuf_append(frame, (uint16_t)size);
    CHECK(data != NULL);
    memcpy(data, ip, size);
    zh_net_input(script_net, frame, script_now);
}

void script_input(const uint8_t *ip, size_t size)
{
    uint8_t head[ETHER];
    input_bytes(ip, size, head);
}

unsigned script_discard(void)
{
    unsigned count = 0;
    for (poll_now(); is_sent(); count++)
        drop_sent();
    return count;
}

static void put_ip(uint8_t *ip, size_t size, uint8_t protocol, bool inward, uint8_t ecn)
{
    struct in_addr ours, peers;
    if (script_ipv6) {
        memset(ip, 0, IPV6);
        ip[0] = 0x60;
        ip[1] = (uint8_t)(ecn << 4);
        put16(ip + 4, (uint32_t)size - IPV6);
        ip[6] = protocol;
        ip[7] = 64;
        memcpy(ip + 8, inward ? peer_address_v6 : our_address_v6, 16);
        memcpy(ip + 24, inward ? our_address_v6 : peer_address_v6, 16);
        return;
    }
    inet_pton(AF_INET, our_address, &ours);
    inet_pton(AF_INET, peer_address, &peers);
    memset(ip, 0, IPV4);
    ip[0] = 0x45;
    ip[1] = ecn;
    put16(ip + 2, (uint32_t)size);
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = protocol;
    memcpy(ip + 12, inward ? &peers : &ours, 4);
    memcpy(ip + 16, inward ? &ours : &peers, 4);
    put16(ip + 10, ~sum16(0, ip, IPV4) & 0xffff);
}

static void play_icmp(const struct packet *p)
{
    uint8_t head[ETHER], ip[IPV6 + 8 + IPV6 + 8] = {0};
    size_t header = ip_header(), size = 8 + header + 8;
    uint8_t *icmp = ip + header, *quote = icmp + 8;
    icmp[0] = p->type;
    icmp[1] = p->code;
    put16(icmp + 6, p->mtu);
    put_ip(quote, header + TCP + p->size, IPPROTO_TCP, false, 0);
    put16(quote + header, flow->local_port);
    put16(quote + header + 2, flow->peer_port);
    put32(quote + header + 4, p->seq + flow->iss);
    put_ip(ip, header + size, script_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, true, 0);
    uint32_t pseudo = script_ipv6 ? sum_pseudo(ip, IPPROTO_ICMPV6, size) : 0;
    put16(icmp + 2, ~sum16(pseudo, icmp, size) & 0xffff);
    input_bytes(ip, header + size, head);
}

static void play_in(const struct packet *p)
{
    static uint8_t ip[IPV6 + 60 + 16384];
    uint8_t head[ETHER], *tcp = ip + ip_header();
    if (is_sent())
        refuse_sent("nothing is expected here");
    note("%.9f < %s", (double)(script_now - START) / 1e9, describe(p));
    if (p->icmp) {
        play_icmp(p);
        return;
    }
    uint32_t options = (p->options_size + 3) & ~3u, header = TCP + options;
    uint32_t size = header + p->size;
    CHECK(size <= sizeof ip - IPV6);
    put16(tcp, flow->peer_port);
    put16(tcp + 2, flow->local_port);
    put32(tcp + 4, p->seq + PEER_ISN);
    put32(tcp + 8, p->flags & TCP_ACK ? p->ack + flow->iss : 0);
    tcp[12] = (uint8_t)(header << 2);
    tcp[13] = p->flags;
    put16(tcp + 14, p->window);
    put32(tcp + 16, 0);
    memset(tcp + TCP, 0, options);
    memcpy(tcp + TCP, p->options, p->options_size);
    for (uint32_t i = 0; i < p->size; i++)
        tcp[header + i] = stream_byte(true, (uint64_t)(p->seq + i) - 1);
    put_ip(ip, ip_header() + size, IPPROTO_TCP, true, p->ecn);
    put16(tcp + 16, ~sum16(sum_pseudo(ip, IPPROTO_TCP, size), tcp, size) & 0xffff);
    input_bytes(ip, ip_header() + size, head);
}

static bool same_options(const struct packet *want, const struct packet *got)
{
    if (want->any_options)
        return true;
    return want->has_mss == got->has_mss && want->mss == got->mss &&
           want->has_shift == got->has_shift && want->shift == got->shift &&
           want->sack_permitted == got->sack_permitted &&
           want->has_timestamps == got->has_timestamps &&
           (!want->has_timestamps || (want->tsval == got->tsval && want->tsecr == got->tsecr)) &&
           want->blocks == got->blocks &&
           memcmp(want->block, got->block, want->blocks * sizeof *want->block) == 0;
}

static void play_out(const struct packet *want, uint64_t earliest, uint64_t latest)
{
    if (!wait_sent(latest))
        fail("nothing was sent by then; expected:\n  %s", describe(want));
    struct packet got;
    read_sent(&got);
    if (got.local_port != flow->local_port || got.peer_port != flow->peer_port)
        refuse_sent("a packet of another flow");
    if (want->flags != got.flags || want->seq != got.seq || want->size != got.size ||
        (want->flags & TCP_ACK && want->ack != got.ack) ||
        (want->has_window && want->window != got.window) ||
        (want->has_ecn && want->ecn != got.ecn) || !same_options(want, &got))
        fail("another packet was sent\n  expected: %s\n  got:      %s\n  at %.9f", describe(want),
             describe(&got), (double)(got.at - START) / 1e9);
    if (got.bad_payload)
        fail("the payload is not what was to be sent:\n  %s", describe(&got));
    if (got.at < earliest || got.at > latest)
        fail("sent at %.9f, not at %.9f~%.9f:\n  %s", (double)(got.at - START) / 1e9,
             (double)(earliest - START) / 1e9, (double)(latest - START) / 1e9, describe(&got));
    note("%.9f > %s", (double)(got.at - START) / 1e9, describe(&got));
    drop_sent();
}

static void play_one(const char *text)
{
    uint64_t earliest = script_now, latest = earliest;
    play_text = text;
    at = text;
    skip_space();
    if (*at == '*') {
        at++;
        latest = UINT64_MAX - 1;
    } else if (*at == '+') {
        at++;
        earliest += seconds();
        latest = earliest;
        if (*at == '~') {
            at++;
            need("+");
            latest = script_now + seconds();
        }
    }
    skip_space();
    struct packet packet;
    if (has(">")) {
        parse_packet(&packet);
        skip_space();
        if (!*at)
            play_out(&packet, earliest, latest);
    } else if (has("<")) {
        if (earliest != script_now)
            go_to(earliest);
        parse_packet(&packet);
        skip_space();
        if (!*at)
            play_in(&packet);
    } else if (!*at) {
        go_to(earliest);
    }
    if (*at)
        fail("the script's line cannot be read from \"%s\" on", at);
    play_text = NULL;
}

void script_play(const char *file, int line, const char *const *lines)
{
    play_file = file;
    play_line = line;
    for (; *lines; lines++)
        play_one(*lines);
}

void script_playf(const char *file, int line, const char *format, ...)
{
    char text[LINE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    play_file = file;
    play_line = line;
    play_one(text);
}

/* --- a test's beginning and end ------------------------------------------------------------------
 */

/* DPDK keeps what it allocates at start for the life of the process. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

void script_start(void)
{
    char error[ZH_PORT_ERROR_SIZE];
    if (zh_eal_start(NULL, error) != 0) {
        fprintf(stderr, "%s\n", error);
        exit(1);
    }
    pool = rte_pktmbuf_pool_create("script", POOL_PACKETS, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE,
                                   SOCKET_ID_ANY);
    CHECK(pool != NULL);
    memcpy(port.mac, our_mac, 6);
    port.pool = pool;
}

void script_begin(const char *name, const struct zh_net_config *given)
{
    static struct zh_net_prefix addresses[2];
    struct zh_net_config config = given ? *given : (struct zh_net_config){0};
    char error[ZH_PORT_ERROR_SIZE];
    test_name = name;
    script_now = START;
    traced = 0;
    for (unsigned i = 0; i < SCRIPT_FLOWS; i++)
        flows[i] =
            (struct flow){.local_port = SCRIPT_PORT, .peer_port = (uint16_t)(SCRIPT_CLIENT + i)};
    flow = flows;
    CHECK(zh_net_prefix_parse("10.0.0.1/24", &addresses[0]) == 0);
    CHECK(zh_net_prefix_parse("fd00::1/64", &addresses[1]) == 0);
    config.addresses = addresses;
    config.address_count = script_ipv6 ? 2 : 1;
    if (!config.congestion_control)
        config.congestion_control = "newreno";
    if (!config.max_connections)
        config.max_connections = 256;
    if (!config.send_packets)
        config.send_packets = 1023;
    if (!config.seed)
        config.seed = 1;
    if (zh_net_create(&config, &port, &script_net, error) != 0)
        fail("%s", error);
    go_to(script_now + 10 * NET_SECOND); /* the address is announced */
}

void script_end(void)
{
    struct tcp *tcp = script_net->tcp;
    play_text = NULL;
    for (uint64_t end = script_now + 3600 * NET_SECOND;;) {
        uint64_t next = poll_now();
        if (is_sent())
            refuse_sent("the test is over");
        if (next > end)
            break;
        script_now = next;
    }
    if (tcp->sockets || tcp->requests || tcp->time_waits)
        fail("%u sockets, %u requests, %u in TIME-WAIT are left", tcp->sockets, tcp->requests,
             tcp->time_waits);
    if (script_net->timers.count)
        fail("%u timers are set", script_net->timers.count);
    if (rte_mempool_in_use_count(script_net->pool))
        fail("%u packets of the stack's pool are not back",
             rte_mempool_in_use_count(script_net->pool));
    zh_net_destroy(script_net);
    script_net = NULL;
    if (rte_mempool_in_use_count(pool))
        fail("%u received packets are not back", rte_mempool_in_use_count(pool));
}

void script_flow(unsigned number_of_flow)
{
    CHECK(number_of_flow < SCRIPT_FLOWS);
    flow = &flows[number_of_flow];
}

void script_forget(void)
{
    flow->has_iss = flow->has_ts_base = false;
    flow->iss = flow->ts_base = 0;
    flow->sent = flow->received = 0;
}

uint32_t script_iss(void)
{
    return flow->iss;
}

/* --- sockets
 * -------------------------------------------------------------------------------------- */

static struct zh_net_socket *new_socket(void)
{
    struct zh_net_socket *s;
    CHECK_EQ(zh_net_socket(script_net, script_ipv6 ? AF_INET6 : AF_INET, &s), 0);
    return s;
}

struct zh_net_socket *script_listen(int backlog)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(SCRIPT_PORT)};
    struct sockaddr_in6 address_v6 = {.sin6_family = AF_INET6, .sin6_port = htons(SCRIPT_PORT)};
    struct zh_net_socket *s = new_socket();
    if (script_ipv6)
        CHECK_EQ(zh_net_bind(s, (struct sockaddr *)&address_v6, sizeof address_v6), 0);
    else
        CHECK_EQ(zh_net_bind(s, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(zh_net_listen(s, backlog), 0);
    return s;
}

struct zh_net_socket *script_accept(struct zh_net_socket *listener)
{
    struct zh_net_socket *s = NULL;
    int error = zh_net_accept(listener, &s);
    if (error)
        fail("accept gives %d", error);
    return s;
}

struct zh_net_socket *script_connect(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(SCRIPT_PEER_PORT)};
    struct sockaddr_in6 address_v6 = {.sin6_family = AF_INET6,
                                      .sin6_port = htons(SCRIPT_PEER_PORT)};
    struct zh_net_socket *s = new_socket();
    struct sockaddr_storage local;
    inet_pton(AF_INET, peer_address, &address.sin_addr);
    memcpy(&address_v6.sin6_addr, peer_address_v6, 16);
    CHECK_EQ(script_ipv6 ? zh_net_connect(s, (struct sockaddr *)&address_v6, sizeof address_v6)
                         : zh_net_connect(s, (struct sockaddr *)&address, sizeof address),
             -EINPROGRESS);
    CHECK_EQ(zh_net_getsockname(s, &local), 0);
    flow->local_port = ntohs(((struct sockaddr_in *)&local)->sin_port);
    flow->peer_port = SCRIPT_PEER_PORT;
    return s;
}

struct zh_net_socket *script_open_with(unsigned window, const char *options)
{
    struct zh_net_socket *listener = script_listen(1);
    const char *stamp = strstr(options, "TS val ");
    char ack[64] = "";
    if (stamp) /* the peer's clock has ticks of 1 ms too */
        snprintf(ack, sizeof ack, " <nop,nop,TS val %u ecr %d>",
                 (unsigned)strtoul(stamp + 7, NULL, 10) + 100, FIRST_TIMESTAMP);
    SCRIPTF("+0 < S 0:0(0) win 65535 <%s>", options);
    SCRIPT("+0 > S. 0:0(0) ack 1 <...>");
    SCRIPTF("+0.1 < . 1:1(0) ack 1 win %u%s", window, ack);
    struct zh_net_socket *s = script_accept(listener);
    zh_net_close(listener);
    SCRIPT("+0");
    return s;
}

struct zh_net_socket *script_open(unsigned window)
{
    return script_open_with(window, "mss 1000");
}

void script_abort(struct zh_net_socket *s)
{
    struct linger linger = {.l_onoff = 1};
    struct packet got;
    go_to(script_now);
    CHECK_EQ(zh_net_setsockopt(s, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    zh_net_close(s);
    if (!wait_sent(script_now))
        fail("closing with a linger time of zero sends no reset");
    read_sent(&got);
    if (!(got.flags & TCP_RST))
        refuse_sent("a reset was expected");
    note("%.9f > %s", (double)(got.at - START) / 1e9, describe(&got));
    drop_sent();
}

static void send_bytes(struct zh_net_socket *s, size_t size, int flags)
{
    uint8_t *data = malloc(size);
    CHECK(data != NULL);
    for (size_t i = 0; i < size; i++)
        data[i] = stream_byte(false, flow->sent + i);
    ssize_t taken = zh_net_send(s, data, size, flags);
    if (taken != (ssize_t)size)
        fail("sending %zu bytes gives %zd", size, taken);
    flow->sent += size;
    note("%.9f   send(%zu)", (double)(script_now - START) / 1e9, size);
    free(data);
}

void script_send(struct zh_net_socket *s, size_t size)
{
    send_bytes(s, size, 0);
}

void script_send_more(struct zh_net_socket *s, size_t size)
{
    send_bytes(s, size, MSG_MORE);
}

void script_recv(struct zh_net_socket *s, size_t size)
{
    uint8_t *data = malloc(size + 1);
    CHECK(data != NULL);
    ssize_t got = zh_net_recv(s, data, size ? size : 1, 0);
    note("%.9f   recv(%zu) = %zd", (double)(script_now - START) / 1e9, size, got);
    if (got != (ssize_t)size)
        fail("receiving %zu bytes gives %zd", size, got);
    for (size_t i = 0; i < size; i++)
        if (data[i] != stream_byte(true, flow->received + i))
            fail("byte %zu received is not what the peer has sent", (size_t)flow->received + i);
    flow->received += size;
    free(data);
}

void script_recv_error(struct zh_net_socket *s, int error)
{
    uint8_t byte;
    ssize_t got = zh_net_recv(s, &byte, 1, 0);
    if (got != -error)
        fail("receiving gives %zd, not the error %d", got, error);
}

void script_socket_error(struct zh_net_socket *s, int error)
{
    int value = -1;
    socklen_t size = sizeof value;
    CHECK_EQ(zh_net_getsockopt(s, SOL_SOCKET, SO_ERROR, &value, &size), 0);
    if (value != error)
        fail("SO_ERROR is %d, not %d", value, error);
}

void script_set(struct zh_net_socket *s, int level, int option, int value)
{
    CHECK_EQ(zh_net_setsockopt(s, level, option, &value, sizeof value), 0);
}

struct tcp_info script_info(struct zh_net_socket *s)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    CHECK_EQ(zh_net_getsockopt(s, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    return info;
}

const char *script_state(void)
{
    struct zh_net_connection lines[64];
    poll_now();
    size_t count = zh_net_connections(script_net, lines, 64);
    for (size_t i = 0; i < count && i < 64; i++)
        if (((struct sockaddr_in *)&lines[i].local)->sin_port == htons(flow->local_port) &&
            ((struct sockaddr_in *)&lines[i].peer)->sin_port == htons(flow->peer_port))
            return lines[i].state;
    return NULL;
}
