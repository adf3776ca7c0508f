/* Path MTU (RFC 1191, RFC 8201): what is known to be less than the link's, for ten minutes. */
#include "stack.h"

enum {
    MTU_MIN_V4 = 576,  /* less than the 68 of RFC 1191 section 3 would allow, against forged ones
                          (RFC 5927 section 7.2) */
    MTU_MIN_V6 = 1280, /* RFC 8201 section 4 */
    PATHS = sizeof((struct zh_net *)0)->paths / sizeof(struct net_path),
};
#define PATH_LIFE (600 * NET_SECOND) /* RFC 1191 section 6.3; RFC 8201 section 5.3 */

static const struct net_path *find(const struct zh_net *net, const struct net_addr *dst)
{
    for (unsigned i = 0; i < net->path_count; i++)
        if (net_addr_equal(&net->paths[i].dst, dst))
            return &net->paths[i];
    return NULL;
}

uint16_t net_path_mtu(const struct zh_net *net, const struct net_addr *dst)
{
    const struct net_path *path = find(net, dst);
    return path && path->expires > net->now ? path->mtu : net->config.mtu;
}

uint64_t net_path_expires(const struct zh_net *net, const struct net_addr *dst)
{
    const struct net_path *path = find(net, dst);
    return path && path->expires > net->now ? path->expires : NET_NEVER;
}

/* The next of the sizes that links have (RFC 1191 section 7.1). */
uint16_t net_path_plateau(uint16_t size)
{
    static const uint16_t plateaus[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006};
    for (unsigned i = 0; i < sizeof plateaus / sizeof *plateaus; i++)
        if (plateaus[i] < size)
            return plateaus[i];
    return MTU_MIN_V4;
}

uint16_t net_path_lower(struct zh_net *net, const struct net_addr *dst, uint16_t mtu)
{
    uint16_t least = net_addr_is_v4(dst) ? MTU_MIN_V4 : MTU_MIN_V6;
    uint16_t now = net_path_mtu(net, dst);
    if (!mtu)
        mtu = net_path_plateau(now);
    if (mtu < least)
        mtu = least;
    if (mtu >= now)
        return now;
    struct net_path *path = (struct net_path *)find(net, dst);
    if (!path && net->path_count < PATHS)
        path = &net->paths[net->path_count++];
    if (!path) { /* the one that is the first to expire */
        path = net->paths;
        for (unsigned i = 1; i < PATHS; i++)
            if (net->paths[i].expires < path->expires)
                path = &net->paths[i];
    }
    *path = (struct net_path){.dst = *dst, .expires = net->now + PATH_LIFE, .mtu = mtu};
    return mtu;
}
