/* Neighbours on the link: which hardware address an IP address has, as RFC 4861 section 7.3 has it,
 * for ARP too (RFC 1122 section 2.3.2.1 asks for as much). All memory is there from the start. */
#include <stdlib.h>
#include <sys/queue.h>

#include "headers.h"
#include "stack.h"

enum state {
    INCOMPLETE, /* asked for, packets wait */
    REACHABLE,  /* heard from of late; becomes stale with time, unnoticed until it is used */
    STALE,
    DELAY, /* stale and used: a confirmation from above may come */
    PROBE, /* asked itself whether it is still there */
};

/* RFC 4861 section 10. */
#define RETRANS_TIMER NET_SECOND
#define REACHABLE_TIME (30 * NET_SECOND)
#define DELAY_FIRST_PROBE_TIME (5 * NET_SECOND)
#define ANNOUNCE_INTERVAL (2 * NET_SECOND) /* RFC 5227 section 1.1 */

enum {
    MAX_SOLICIT = 3,  /* MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT */
    ANNOUNCE_NUM = 2, /* RFC 5227 section 1.1; RFC 4861 section 7.2.6: at most 3 */
    WAITING_EACH = 16,
    WAITING = 256,
};

struct waiting {
    SIMPLEQ_ENTRY(waiting) link;
    struct rte_mbuf *packet;
};

SIMPLEQ_HEAD(waiting_list, waiting);

struct neighbour {
    struct neighbour *next; /* in its bucket, or free */
    struct net_addr address;
    uint64_t deadline; /* of INCOMPLETE, DELAY and PROBE; REACHABLE: when it becomes stale */
    uint8_t mac[6];
    uint8_t state;
    uint8_t asked;
    uint8_t waiting_count;
    TAILQ_ENTRY(neighbour) age_link, timer_link;
    struct waiting_list waiting;
};

TAILQ_HEAD(neighbour_list, neighbour);

struct neighbours {
    struct net_timer timer, announce_timer;
    uint8_t announcements;  /* made so far */
    struct neighbour *last; /* the one found last; NULL */
    struct neighbour **buckets;
    uint32_t bucket_mask, count, incomplete_count, most;
    uint64_t key;
    /* By use, least of late first: those with a hardware address, and those without, lest questions
     * without answers drive out what is known. */
    struct neighbour_list known, incomplete;
    /* By deadline: each has one duration, so that appending keeps the order. */
    struct neighbour_list delayed, asked;
    struct neighbour *free;
    struct waiting_list free_waiting;
    struct neighbour *all;
    struct waiting waiting[WAITING];
};

static struct neighbour **bucket(struct neighbours *n, const struct net_addr *address)
{
    uint64_t h = (address->halves[0] ^ n->key) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 32 ^ address->halves[1]) * (n->key | 1);
    return &n->buckets[(h >> 32) & n->bucket_mask];
}

static struct neighbour *find(struct neighbours *n, const struct net_addr *address)
{
    struct neighbour *found = n->last;
    if (likely(found && net_addr_equal(&found->address, address)))
        return found;
    for (found = *bucket(n, address); found; found = found->next)
        if (net_addr_equal(&found->address, address)) {
            n->last = found;
            return found;
        }
    return NULL;
}

static struct neighbour_list *timers_of(struct neighbours *n, const struct neighbour *neighbour)
{
    switch (neighbour->state) {
    case DELAY:
        return &n->delayed;
    case INCOMPLETE:
    case PROBE:
        return &n->asked;
    default:
        return NULL;
    }
}

static void set_timer(struct zh_net *net)
{
    struct neighbours *n = net->neighbours;
    struct neighbour *delayed = TAILQ_FIRST(&n->delayed), *asked = TAILQ_FIRST(&n->asked);
    uint64_t deadline =
        RTE_MIN(delayed ? delayed->deadline : NET_NEVER, asked ? asked->deadline : NET_NEVER);
    if (deadline == NET_NEVER)
        net_timer_stop(&net->timers, &n->timer);
    else if (!n->timer.index || n->timer.deadline != deadline)
        net_timer_set(&net->timers, &n->timer, deadline);
}

/* The deadline, if it has one, is `after` from now. */
static void set_state(struct zh_net *net, struct neighbour *neighbour, enum state state,
                      uint64_t after)
{
    struct neighbours *n = net->neighbours;
    struct neighbour_list *list = timers_of(n, neighbour);
    if (list)
        TAILQ_REMOVE(list, neighbour, timer_link);
    if (neighbour->state == INCOMPLETE && state != INCOMPLETE) {
        TAILQ_REMOVE(&n->incomplete, neighbour, age_link);
        n->incomplete_count--;
        TAILQ_INSERT_TAIL(&n->known, neighbour, age_link);
    }
    neighbour->state = (uint8_t)state;
    neighbour->deadline = net->now + after;
    list = timers_of(n, neighbour);
    if (list)
        TAILQ_INSERT_TAIL(list, neighbour, timer_link);
    set_timer(net);
}

static void reachable(struct zh_net *net, struct neighbour *neighbour)
{
    /* Between half and one and a half of it: RFC 4861 section 6.3.2. */
    uint64_t time =
        REACHABLE_TIME / 2 + net_random(net) % NET_SECOND * (REACHABLE_TIME / NET_SECOND);
    set_state(net, neighbour, REACHABLE, time);
}

static struct rte_mbuf *take_waiting(struct neighbours *n, struct neighbour *neighbour)
{
    struct waiting *first = SIMPLEQ_FIRST(&neighbour->waiting);
    if (!first)
        return NULL;
    SIMPLEQ_REMOVE_HEAD(&neighbour->waiting, link);
    SIMPLEQ_INSERT_HEAD(&n->free_waiting, first, link);
    neighbour->waiting_count--;
    return first->packet;
}

/* Out of all lists; its packets are the caller's to take. */
static void unlink_neighbour(struct zh_net *net, struct neighbour *neighbour)
{
    struct neighbours *n = net->neighbours;
    struct neighbour **at = bucket(n, &neighbour->address);
    while (*at != neighbour)
        at = &(*at)->next;
    *at = neighbour->next;
    struct neighbour_list *list = timers_of(n, neighbour);
    if (list)
        TAILQ_REMOVE(list, neighbour, timer_link);
    if (neighbour->state == INCOMPLETE) {
        TAILQ_REMOVE(&n->incomplete, neighbour, age_link);
        n->incomplete_count--;
    } else {
        TAILQ_REMOVE(&n->known, neighbour, age_link);
    }
    if (n->last == neighbour)
        n->last = NULL;
    n->count--;
    set_timer(net);
}

static void release(struct neighbours *n, struct neighbour *neighbour)
{
    neighbour->next = n->free;
    n->free = neighbour;
}

static void evict(struct zh_net *net, struct neighbour *neighbour)
{
    struct rte_mbuf *packet;
    unlink_neighbour(net, neighbour);
    while ((packet = take_waiting(net->neighbours, neighbour))) {
        net->stats.neighbour_dropped++;
        rte_pktmbuf_free(packet);
    }
    release(net->neighbours, neighbour);
}

/* A new entry, INCOMPLETE and not asked for yet. Never NULL: there is room, or it is made. */
static struct neighbour *create(struct zh_net *net, const struct net_addr *address)
{
    struct neighbours *n = net->neighbours;
    /* A quarter is enough for questions. */
    if (n->incomplete_count > n->most / 4 || (n->count == n->most && TAILQ_EMPTY(&n->known)))
        evict(net, TAILQ_FIRST(&n->incomplete));
    else if (n->count == n->most)
        evict(net, TAILQ_FIRST(&n->known));
    struct neighbour *neighbour = n->free, **at = bucket(n, address);
    n->free = neighbour->next;
    *neighbour = (struct neighbour){
        .next = *at,
        .address = *address,
        .deadline = net->now + RETRANS_TIMER,
        .state = INCOMPLETE,
    };
    SIMPLEQ_INIT(&neighbour->waiting);
    *at = neighbour;
    TAILQ_INSERT_TAIL(&n->incomplete, neighbour, age_link);
    TAILQ_INSERT_TAIL(&n->asked, neighbour, timer_link);
    n->incomplete_count++;
    n->count++;
    set_timer(net);
    return neighbour;
}

static void ask(struct zh_net *net, struct neighbour *neighbour)
{
    neighbour->asked++;
    const uint8_t *mac = neighbour->state == PROBE ? neighbour->mac : NULL;
    if (net_addr_is_v4(&neighbour->address))
        arp_request(net, &neighbour->address, mac);
    else
        nd_solicit(net, &neighbour->address, mac);
}

static void transmit(struct zh_net *net, struct neighbour *neighbour, struct rte_mbuf *packet)
{
    ether_output(net, packet, neighbour->mac,
                 net_addr_is_v4(&neighbour->address) ? ETHER_IPV4 : ETHER_IPV6);
}

/* RFC 1122 section 2.3.2.2: at least the latest packet is kept. */
static void hold(struct zh_net *net, struct neighbour *neighbour, struct rte_mbuf *packet)
{
    struct neighbours *n = net->neighbours;
    if (neighbour->waiting_count == WAITING_EACH ||
        (neighbour->waiting_count && SIMPLEQ_EMPTY(&n->free_waiting))) {
        rte_pktmbuf_free(take_waiting(n, neighbour));
        net->stats.neighbour_dropped++;
    }
    struct waiting *waiting = SIMPLEQ_FIRST(&n->free_waiting);
    if (!waiting) {
        rte_pktmbuf_free(packet);
        net->stats.neighbour_dropped++;
        return;
    }
    SIMPLEQ_REMOVE_HEAD(&n->free_waiting, link);
    waiting->packet = packet;
    SIMPLEQ_INSERT_TAIL(&neighbour->waiting, waiting, link);
    neighbour->waiting_count++;
}

void neighbour_output(struct zh_net *net, const struct net_addr *next_hop, struct rte_mbuf *packet)
{
    struct neighbours *n = net->neighbours;
    struct neighbour *neighbour = find(n, next_hop);
    if (unlikely(!neighbour)) {
        neighbour = create(net, next_hop);
        hold(net, neighbour, packet);
        ask(net, neighbour);
        return;
    }
    if (unlikely(neighbour->state == INCOMPLETE)) {
        hold(net, neighbour, packet);
        return;
    }
    if (unlikely(neighbour->state == STALE ||
                 (neighbour->state == REACHABLE && neighbour->deadline <= net->now)))
        set_state(net, neighbour, DELAY, DELAY_FIRST_PROBE_TIME);
    if (neighbour != TAILQ_LAST(&n->known, neighbour_list)) {
        TAILQ_REMOVE(&n->known, neighbour, age_link);
        TAILQ_INSERT_TAIL(&n->known, neighbour, age_link);
    }
    transmit(net, neighbour, packet);
}

void neighbour_confirm(struct zh_net *net, const struct net_addr *next_hop)
{
    struct neighbour *neighbour = find(net->neighbours, next_hop);
    if (!neighbour || neighbour->state == INCOMPLETE)
        return;
    /* For every ACK: no more is done than is needed. */
    if (neighbour->state != REACHABLE || neighbour->deadline < net->now + REACHABLE_TIME / 4)
        reachable(net, neighbour);
}

bool neighbour_heard(struct zh_net *net, const struct neighbour_news *news)
{
    struct neighbours *n = net->neighbours;
    struct neighbour *neighbour = find(n, &news->address);
    if (!neighbour) {
        /* Whoever will be answered; but it must not drive out others. */
        if (!news->may_create || !news->mac || n->count == n->most)
            return news->may_create;
        neighbour = create(net, &news->address);
        memcpy(neighbour->mac, news->mac, 6);
        set_state(net, neighbour, STALE, 0);
        return true;
    }
    if (neighbour->state == INCOMPLETE) {
        if (!news->mac)
            return false;
        memcpy(neighbour->mac, news->mac, 6);
        if (news->solicited)
            reachable(net, neighbour);
        else
            set_state(net, neighbour, STALE, 0);
        if (!SIMPLEQ_EMPTY(&neighbour->waiting) && neighbour->state == STALE)
            set_state(net, neighbour, DELAY, DELAY_FIRST_PROBE_TIME);
        neighbour->asked = 0;
        struct rte_mbuf *packet;
        while ((packet = take_waiting(n, neighbour)))
            transmit(net, neighbour, packet);
        return true;
    }
    bool other = news->mac && memcmp(neighbour->mac, news->mac, 6) != 0;
    if (other && !news->override) { /* RFC 4861 section 7.2.5 (I) */
        if (neighbour->state == REACHABLE)
            set_state(net, neighbour, STALE, 0);
        return false;
    }
    if (other)
        memcpy(neighbour->mac, news->mac, 6);
    /* An answer is one only to a question: else what it says is used, and seen to. */
    if (news->solicited && neighbour->state == PROBE) {
        neighbour->asked = 0;
        reachable(net, neighbour);
    } else if (other) {
        set_state(net, neighbour, STALE, 0);
    }
    return true;
}

/* Three questions without an answer. Its packets are dropped, and TCP told of each. */
static void fail(struct zh_net *net, struct neighbour *neighbour)
{
    struct neighbours *n = net->neighbours;
    struct rte_mbuf *packets[WAITING_EACH];
    unsigned count = 0;
    unlink_neighbour(net, neighbour);
    while ((packets[count] = take_waiting(n, neighbour)))
        if (++count == WAITING_EACH)
            break;
    release(n, neighbour);
    net->stats.neighbour_failed++;
    net->stats.neighbour_dropped += count;
    for (unsigned i = 0; i < count; i++) {
        /* As a router would with an ICMP error; not hard: RFC 1122 section 4.2.3.9. */
        struct net_error error = {.error = EHOSTUNREACH};
        if (net_error_quote(net, rte_pktmbuf_mtod(packets[i], const uint8_t *),
                            packets[i]->data_len, &error))
            tcp_icmp_error(net, &error);
        rte_pktmbuf_free(packets[i]);
    }
}

static void expire(struct zh_net *net, struct net_timer *timer)
{
    struct neighbours *n = net->neighbours;
    struct neighbour *neighbour;
    (void)timer;
    while ((neighbour = TAILQ_FIRST(&n->delayed)) && neighbour->deadline <= net->now) {
        neighbour->asked = 0;
        set_state(net, neighbour, PROBE, RETRANS_TIMER);
        ask(net, neighbour);
    }
    while ((neighbour = TAILQ_FIRST(&n->asked)) && neighbour->deadline <= net->now) {
        if (neighbour->asked >= MAX_SOLICIT) {
            fail(net, neighbour);
            continue;
        }
        set_state(net, neighbour, (enum state)neighbour->state, RETRANS_TIMER);
        ask(net, neighbour);
    }
    set_timer(net);
}

/* With the first poll, and once more, lest the first was lost. */
static void announce(struct zh_net *net, struct net_timer *timer)
{
    arp_announce(net);
    nd_announce(net);
    if (++net->neighbours->announcements < ANNOUNCE_NUM)
        net_timer_set(&net->timers, timer, net->now + ANNOUNCE_INTERVAL);
}

int neighbours_create(struct zh_net *net)
{
    struct neighbours *n = calloc(1, sizeof *n);
    uint32_t buckets = 1;
    net->neighbours = n;
    if (!n)
        return -ENOMEM;
    n->timer.expire = expire;
    n->most = net->config.max_neighbours;
    while (buckets < n->most)
        buckets *= 2;
    n->bucket_mask = buckets - 1;
    memcpy(&n->key, net->key, sizeof n->key);
    n->buckets = calloc(buckets, sizeof *n->buckets);
    n->all = calloc(n->most, sizeof *n->all);
    if (!n->buckets || !n->all)
        return -ENOMEM;
    TAILQ_INIT(&n->known);
    TAILQ_INIT(&n->incomplete);
    TAILQ_INIT(&n->delayed);
    TAILQ_INIT(&n->asked);
    SIMPLEQ_INIT(&n->free_waiting);
    for (uint32_t i = n->most; i-- > 0;)
        release(n, &n->all[i]);
    for (int i = 0; i < WAITING; i++)
        SIMPLEQ_INSERT_TAIL(&n->free_waiting, &n->waiting[i], link);
    n->announce_timer.expire = announce;
    net_timer_set(&net->timers, &n->announce_timer, 0);
    return 0;
}

void neighbours_free(struct zh_net *net)
{
    struct neighbours *n = net->neighbours;
    struct neighbour *neighbour;
    if (!n)
        return;
    if (n->all && n->buckets)
        while ((neighbour = TAILQ_FIRST(&n->incomplete)))
            evict(net, neighbour);
    net_timer_stop(&net->timers, &n->timer);
    net_timer_stop(&net->timers, &n->announce_timer);
    free(n->all);
    free(n->buckets);
    free(n);
    net->neighbours = NULL;
}
