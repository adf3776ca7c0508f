#include "tcp_conn.h"
static void start(struct zh_net_socket *s){(void)s;}
static void on_ack(struct zh_net_socket *s,const struct tcp_ack *a){ if(s->cwnd<s->ssthresh) s->cwnd+=a->acked; else s->cwnd+= (uint64_t)s->mss*a->acked/s->cwnd;}
static void on_loss(struct zh_net_socket *s){ s->ssthresh=RTE_MAX(s->cwnd/2,2ull*s->mss);}
static void undo(struct zh_net_socket *s){(void)s;}
const struct tcp_congestion tcp_newreno={"newreno",start,on_ack,on_loss,on_loss,undo};
const struct tcp_congestion *tcp_congestion_find(const char*n){(void)n;return &tcp_newreno;}
