/* Headers below TCP, as they lie on the wire: network byte order, unaligned. */
#ifndef ZEROHOP_NET_HEADERS_H
#define ZEROHOP_NET_HEADERS_H

#include <stdint.h>

struct ether_header {
    uint8_t dst[6], src[6];
    uint16_t type;
} __attribute__((packed));

enum {
    ETHER_IPV4 = 0x0800,
    ETHER_ARP = 0x0806,
    ETHER_IPV6 = 0x86dd,
};

/* RFC 826, of IPv4 over Ethernet. */
struct arp_header {
    uint16_t hardware, protocol;
    uint8_t hardware_size, protocol_size;
    uint16_t operation;
    uint8_t sender_mac[6];
    uint32_t sender;
    uint8_t target_mac[6];
    uint32_t target;
} __attribute__((packed));

enum {
    ARP_ETHERNET = 1,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
};

/* RFC 791 section 3.1. */
struct ipv4_header {
    uint8_t version_ihl;
    uint8_t tos;
    uint16_t total_length;
    uint16_t id;
    uint16_t fragment; /* flags, offset */
    uint8_t ttl;
    uint8_t protocol;
    uint16_t checksum;
    uint32_t src, dst;
} __attribute__((packed));

enum {
    IPV4_DONT_FRAGMENT = 0x4000,
    IPV4_MORE_FRAGMENTS = 0x2000,
    IPV4_OFFSET_MASK = 0x1fff, /* in units of 8 bytes */
    IP_DEFAULT_TTL = 64,       /* RFC 1700 (assigned numbers): the default of IPv4 and IPv6 */
};

/* RFC 792; RFC 4443 section 2.1. */
struct icmp_header {
    uint8_t type, code;
    uint16_t checksum;
    uint32_t field; /* unused, MTU, pointer, or identifier and sequence number */
} __attribute__((packed));

enum {
    ICMP_ECHO_REPLY = 0,
    ICMP_UNREACHABLE = 3,
    ICMP_ECHO = 8,
    ICMP_TIME_EXCEEDED = 11,
    ICMP_PARAMETER_PROBLEM = 12,
    /* codes of unreachable: RFC 792, RFC 1122 section 3.2.2.1 */
    ICMP_CODE_NET = 0,
    ICMP_CODE_PROTOCOL = 2,
    ICMP_CODE_PORT = 3,
    ICMP_CODE_TOO_BIG = 4,
    ICMP_CODE_REASSEMBLY = 1, /* of time exceeded, in both versions */
};

/* RFC 8200 section 3. */
struct ipv6_header {
    uint8_t version_class_label[4];
    uint16_t payload_length;
    uint8_t next;
    uint8_t hop_limit;
    uint8_t src[16], dst[16];
} __attribute__((packed));

/* RFC 8200 section 4.5. */
struct ipv6_fragment {
    uint8_t next, reserved;
    uint16_t offset_more; /* the offset in units of 8, two bits of nothing, and whether more come */
    uint32_t id;
} __attribute__((packed));

enum { /* RFC 8200 section 4 */
       IPV6_HOP_BY_HOP = 0,
       IPV6_ROUTING = 43,
       IPV6_FRAGMENT = 44,
       IPV6_DESTINATION = 60,
};

/* RFC 4443 section 2.1, RFC 4861 section 4. */
enum {
    ICMPV6_UNREACHABLE = 1,
    ICMPV6_TOO_BIG = 2,
    ICMPV6_TIME_EXCEEDED = 3,
    ICMPV6_PARAMETER_PROBLEM = 4,
    ICMPV6_ECHO = 128, /* the first that is no error */
    ICMPV6_ECHO_REPLY = 129,
    ICMPV6_SOLICITATION = 135,
    ICMPV6_ADVERTISEMENT = 136,
    ICMPV6_CODE_PORT = 4,  /* of unreachable */
    ICMPV6_CODE_FIELD = 0, /* of parameter problem */
    ICMPV6_CODE_NEXT_HEADER = 1,
    ICMPV6_CODE_OPTION = 2,
};

/* Neighbour solicitation and advertisement: RFC 4861 sections 4.3 and 4.4. */
struct nd_header {
    uint8_t type, code;
    uint16_t checksum;
    uint8_t flags, reserved[3];
    uint8_t target[16];
} __attribute__((packed));

#endif
