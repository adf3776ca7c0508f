/* Between what a device needs (port.c) and how it is driven (port_ethdev.c). */
#ifndef ZEROHOP_NET_PORT_DEVICE_H
#define ZEROHOP_NET_PORT_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zerohop/port.h"

enum port_kind { PORT_AF_PACKET, PORT_AF_XDP, PORT_MEMIF, PORT_TAP, PORT_RING, PORT_PCI };

enum { PORT_ETHER_HEADER = 14, PORT_VLAN_TAG = 4 };

/* A device as it is to be opened. */
struct port_device {
    enum port_kind kind;
    char name[64];       /* "net_af_packet0", "0000:03:00.0" */
    char arguments[512]; /* the user's and what was added */
    char interface[16];  /* of the kernel, of AF_PACKET and AF_XDP; else empty */
    int interface_index;
    int control; /* a socket in the interface's namespace; -1 without interface. Owned. */
    uint8_t mac[6];
    uint16_t mtu;       /* 0: the device is to say */
    uint16_t data_size; /* of a received packet's buffer; 0: of the MTU */
    char socket[108];   /* a file of memif's that is ours to remove; else empty */
};

/* The value of an option ("framesz" in "iface=x,framesz=2048"). False: it is not there, or longer.
 */
bool port_option(const char *arguments, const char *key, char *value, size_t size);
/* Fill in the device from what the user wrote, and check it. 0 or a negative errno with a sentence.
 */
int port_device_prepare(struct port_device *device, const struct zh_port_config *config,
                        char *error);
void port_device_release(struct port_device *device);
/* The sentence for a device that DPDK would not open. */
int port_device_explain(const struct port_device *device, int code, char *error);
/* Whether the kernel's interface is still there. */
bool port_device_present(const struct port_device *device);

/* Open what was prepared; takes over the device. */
int port_ethdev_open(const struct port_device *device, const struct zh_port_config *config,
                     struct zh_port **port, char *error);

/* A descriptor opened since `before` was taken that is a socket of the family (and bound to the
 * interface, of AF_PACKET), or, where family is 0, an end of a tap. -1: none. */
struct port_descriptors {
    uint64_t open[1024]; /* a bit each; higher numbers are not looked at */
};
void port_descriptors_now(struct port_descriptors *now);
int port_descriptors_find(const struct port_descriptors *before, int family, int interface_index);

/* Route a tap's signals, one a packet, to a thread that has nothing else to do. */
int port_tap_signals(int descriptor);

#endif
