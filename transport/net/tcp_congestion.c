/* The algorithms by name, and what they share. */
#include "tcp_congestion.h"

const struct tcp_congestion *tcp_congestion_find(const char *name)
{
    static const struct tcp_congestion *const all[] = {&tcp_cubic, &tcp_newreno};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

uint64_t tcp_initial_window(uint16_t mss)
{
    return RTE_MIN(10u * mss, RTE_MAX(2u * mss, 14600u));
}

void tcp_window_grow(struct zh_net_socket *s, uint64_t bytes)
{
    if (s->cwnd < TCP_CWND_MAX)
        s->cwnd = RTE_MIN(s->cwnd + bytes, (uint64_t)TCP_CWND_MAX);
}

uint32_t tcp_slow_start(struct zh_net_socket *s, uint32_t bytes)
{
    uint64_t room = s->ssthresh - s->cwnd;
    if (bytes <= room) {
        tcp_window_grow(s, bytes);
        return 0;
    }
    tcp_window_grow(s, room);
    return bytes - (uint32_t)room;
}
