/* Devices by name: what each of them needs so that it neither corrupts packets nor crashes a peer
 * (DESIGN section 7's port contract, measured with Debian's DPDK 22.11), and what to tell a user
 * whose device cannot be opened. */
#include <errno.h>
#include <link.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "eal.h"
#include "port_device.h"

enum {
    MTU_DEFAULT = 1500,
    MTU_MIN = 68,            /* RFC 791 section 3.2 */
    MTU_MAX = 65535 - 256,   /* so that a buffer's size fits its 16 bits */
    AF_PACKET_FRAME = 2048,  /* the driver's default */
    AF_PACKET_FRAMES = 2048, /* four times the driver's: some ms of packets while another runs */
    AF_PACKET_HEADER = 80,   /* TPACKET_V2's headers and alignment before a frame: 66 (packet(7)) */
    AF_XDP_MTU_MAX = 3502,   /* a page without DPDK's and XDP's headers; also checked by DPDK */
    AF_XDP_HEADROOM = 256,   /* XDP_PACKET_HEADROOM */
    MEMIF_BUFFER = 2048,     /* the driver's default */
    MEMIF_FRAME_OVERHEAD = 18 /* less, and the peer crashes */
};

static const struct {
    const char *name, *alias; /* of the driver; digits follow */
    const char *library;      /* as its file is called */
    const char *options;      /* that it knows, each with spaces around */
} drivers[] = {
    [PORT_AF_PACKET] = {"net_af_packet", "eth_af_packet", "librte_net_af_packet",
                        " iface qpairs blocksz framesz framecnt qdisc_bypass "},
    [PORT_AF_XDP] = {"net_af_xdp", "eth_af_xdp", "librte_net_af_xdp",
                     " iface start_queue queue_count shared_umem xdp_prog busy_budget force_copy "},
    [PORT_MEMIF] = {"net_memif", "eth_memif", "librte_net_memif",
                    " id role bsize rsize socket socket-abstract owner-uid owner-gid mac zero-copy "
                    "secret "},
    [PORT_TAP] = {"net_tap", "eth_tap", "librte_net_tap", " iface remote mac persist "},
    [PORT_RING] = {"net_ring", "eth_ring", "librte_net_ring", " nodeaction internal "},
    [PORT_PCI] = {NULL, NULL, NULL, NULL},
};

bool port_option(const char *arguments, const char *key, char *value, size_t size)
{
    size_t key_size = strlen(key);
    for (const char *at = arguments; at && *at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, key, key_size) != 0 || at[key_size] != '=')
            continue;
        size_t value_size = strcspn(at + key_size + 1, ",");
        if (value_size >= size)
            return false;
        memcpy(value, at + key_size + 1, value_size);
        value[value_size] = 0;
        return true;
    }
    return false;
}

/* The number of an option; `missing` where it is not given, -1 where it is none. */
static long option_number(const struct port_device *device, const char *key, long missing)
{
    char text[24], *end;
    if (!port_option(device->arguments, key, text, sizeof text))
        return missing;
    long value = strtol(text, &end, 0);
    return *end || end == text || value < 0 ? -1 : value;
}

static void add_option(struct port_device *device, const char *key, unsigned long value)
{
    size_t used = strlen(device->arguments);
    snprintf(device->arguments + used, sizeof device->arguments - used, "%s%s=%lu", used ? "," : "",
             key, value);
}

/* --- the kernel's interfaces ------------------------------------------------------------------ */

static bool has_capability(int number)
{
    unsigned long long effective = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "CapEff: %llx", &effective) == 1)
            break;
    if (file)
        fclose(file);
    return effective >> number & 1;
}

enum { CAP_NET_ADMIN_ = 12, CAP_NET_RAW_ = 13, CAP_SYS_ADMIN_ = 21, CAP_BPF_ = 39 };

static int interface_ioctl(const struct port_device *device, unsigned long request,
                           struct ifreq *ifr)
{
    memcpy(ifr->ifr_name, device->interface, IFNAMSIZ);
    return ioctl(device->control, request, ifr) == 0 ? 0 : -errno;
}

static int prepare_interface(struct port_device *device, uint16_t asked_mtu, char *error)
{
    struct ifreq ifr;
    if (!port_option(device->arguments, "iface", device->interface, sizeof device->interface))
        return eal_error(error, -EINVAL,
                         "%s needs the name of a network interface, at most 15 characters: "
                         "\"%s,iface=NAME\" (ip link lists those that are)",
                         device->name, device->name);
    if (!has_capability(CAP_NET_RAW_))
        return eal_error(error, -EPERM,
                         "%s needs the capability CAP_NET_RAW: run as root, or with \"setpriv "
                         "--ambient-caps +net_raw --inh-caps +net_raw\"; net_memif needs none",
                         device->name);
    /* Protocol 0: it receives nothing. It holds the interface's namespace, and below what the
     * interface is asked to receive. */
    device->control = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (device->control < 0)
        return eal_error(error, -errno, "%s: no packet socket: %s", device->name, strerror(errno));
    int result = interface_ioctl(device, SIOCGIFINDEX, &ifr);
    if (result != 0)
        return eal_error(error, result,
                         "there is no interface \"%s\" in this network namespace: %s (ip link "
                         "lists those that are)",
                         device->interface, strerror(-result));
    device->interface_index = ifr.ifr_ifindex;
    if ((result = interface_ioctl(device, SIOCGIFFLAGS, &ifr)) == 0 && !(ifr.ifr_flags & IFF_UP))
        return eal_error(error, -ENETDOWN, "interface %s is down: ip link set dev %s up",
                         device->interface, device->interface);
    if (result == 0 && (result = interface_ioctl(device, SIOCGIFHWADDR, &ifr)) == 0)
        memcpy(device->mac, ifr.ifr_hwaddr.sa_data, 6);
    if (result == 0)
        result = interface_ioctl(device, SIOCGIFMTU, &ifr);
    if (result != 0)
        return eal_error(error, result, "interface %s cannot be asked for its properties: %s",
                         device->interface, strerror(-result));
    int mtu = ifr.ifr_mtu < MTU_MAX ? ifr.ifr_mtu : MTU_MAX;
    if (asked_mtu > mtu)
        return eal_error(error, -EMSGSIZE,
                         "interface %s has an MTU of %d, %u was asked for: ip link set dev %s mtu "
                         "%u",
                         device->interface, mtu, asked_mtu, device->interface, asked_mtu);
    device->mtu = asked_mtu ? asked_mtu : (uint16_t)mtu;
    /* Neighbour discovery goes to multicast addresses (RFC 4861 section 2.3). Goes with the socket.
     */
    struct packet_mreq every = {.mr_ifindex = device->interface_index,
                                .mr_type = PACKET_MR_ALLMULTI};
    setsockopt(device->control, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &every, sizeof every);
    return 0;
}

bool port_device_present(const struct port_device *device)
{
    struct ifreq ifr = {.ifr_ifindex = device->interface_index};
    return device->control < 0 || ioctl(device->control, SIOCGIFNAME, &ifr) == 0;
}

/* --- devices ---------------------------------------------------------------------------------- */

static unsigned long round_up(unsigned long value, unsigned long to)
{
    return (value + to - 1) / to * to;
}

static int prepare_af_packet(struct port_device *device, uint16_t asked_mtu, char *error)
{
    int result = prepare_interface(device, asked_mtu, error);
    if (result != 0)
        return result;
    if (option_number(device, "qpairs", 1) != 1)
        return eal_error(error, -EINVAL,
                         "%s: a port has one queue: leave out qpairs, or give qpairs=1",
                         device->name);
    unsigned long page = (unsigned long)sysconf(_SC_PAGESIZE);
    unsigned long least = (unsigned long)device->mtu + PORT_ETHER_HEADER + AF_PACKET_HEADER;
    long frame = option_number(device, "framesz", 0);
    if (frame != 0 && (frame < (long)least || frame % TPACKET_ALIGNMENT != 0 || frame > MTU_MAX))
        return eal_error(error, -EINVAL,
                         "%s: framesz=%ld does not do for an MTU of %u: at least %lu, a multiple "
                         "of %u, or leave it out",
                         device->name, frame, device->mtu, round_up(least, 16), TPACKET_ALIGNMENT);
    if (frame == 0) {
        frame = AF_PACKET_FRAME;
        if (least > AF_PACKET_FRAME)
            frame = (long)round_up(least, least > page ? 1024 : page);
        add_option(device, "framesz", (unsigned long)frame);
    }
    /* A block is whole pages, and the driver takes the frames of all blocks for one run: whole
     * frames too. */
    long block = option_number(device, "blocksz", 0);
    if (block == 0) {
        block = frame;
        while (block % (long)page != 0)
            block += frame;
        add_option(device, "blocksz", (unsigned long)block);
    } else if (block < 0 || block % frame != 0 || block % (long)page != 0) {
        return eal_error(error, -EINVAL,
                         "%s: blocksz is a multiple of framesz (%ld) and of the page (%lu); leave "
                         "it out and a fitting one is taken",
                         device->name, frame, page);
    }
    if (option_number(device, "framecnt", 0) == 0) {
        long per_block = block / frame;
        /* About as many bytes, whatever the frames' size. */
        long count = AF_PACKET_FRAMES / (frame > AF_PACKET_FRAME ? frame / AF_PACKET_FRAME : 1);
        add_option(device, "framecnt", round_up((unsigned long)count, (unsigned long)per_block));
    }
    device->data_size = (uint16_t)frame; /* the driver insists on the whole frame */
    return 0;
}

static int prepare_af_xdp(struct port_device *device, uint16_t asked_mtu, char *error)
{
    int result = prepare_interface(device, asked_mtu, error);
    if (result != 0)
        return result;
    if (!has_capability(CAP_SYS_ADMIN_) &&
        !(has_capability(CAP_NET_ADMIN_) && has_capability(CAP_BPF_)))
        return eal_error(error, -EPERM,
                         "%s needs the capabilities CAP_NET_ADMIN and CAP_BPF besides CAP_NET_RAW: "
                         "run as root, or use net_af_packet",
                         device->name);
    if (device->mtu > AF_XDP_MTU_MAX)
        return eal_error(
            error, -EMSGSIZE,
            "%s carries an MTU of at most %d, %s has %u: ip link set dev %s mtu %d, or "
            "use net_af_packet",
            device->name, AF_XDP_MTU_MAX, device->interface, device->mtu, device->interface,
            AF_XDP_MTU_MAX);
    if (option_number(device, "queue_count", 1) != 1)
        return eal_error(error, -EINVAL,
                         "%s: a port has one queue: leave out queue_count, or give queue_count=1",
                         device->name);
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    struct ifreq ifr = {.ifr_data = (void *)&channels};
    if (interface_ioctl(device, SIOCETHTOOL, &ifr) == 0 &&
        channels.rx_count + channels.combined_count > 1 &&
        option_number(device, "start_queue", -1) < 0)
        return eal_error(error, -EINVAL,
                         "%s receives from one queue and %s has %u: ethtool -L %s %s 1, or steer "
                         "the traffic to one and name it with start_queue=N",
                         device->name, device->interface,
                         channels.rx_count + channels.combined_count, device->interface,
                         channels.combined_count ? "combined" : "rx");
    /* Preferred busy polling makes every poll a system call, for nothing where no driver polls. */
    if (option_number(device, "busy_budget", -1) < 0)
        add_option(device, "busy_budget", 0);
    device->data_size =
        (uint16_t)round_up(device->mtu + PORT_ETHER_HEADER + PORT_VLAN_TAG + AF_XDP_HEADROOM, 64);
    return 0;
}

/* Whether somebody in this network namespace listens on a unix socket. */
static bool is_listening(const char *path, bool abstract)
{
    char line[512], name[128];
    bool found = false;
    FILE *file = fopen("/proc/net/unix", "re");
    if (!file)
        return true; /* not known */
    int size = snprintf(name, sizeof name, " %s%s", abstract ? "@" : "", path);
    while (!found && fgets(line, sizeof line, file)) {
        unsigned flags = 0;
        const char *at = strstr(line, name);
        /* The padding of an abstract name is written as '@' too. */
        found = at && (at[size] == '\n' || at[size] == '@') &&
                sscanf(line, "%*s %*s %*s %x", &flags) == 1 &&
                flags & 1u << 16; /* __SO_ACCEPTCON */
    }
    fclose(file);
    return found;
}

/* DPDK's driver, refused once, does not come up again in this process. */
static int check_memif_peer(const struct port_device *device, const char *path, bool abstract,
                            char *error)
{
    if (is_listening(path, abstract))
        return 0;
    return eal_error(error, -ECONNREFUSED,
                     "%s: nobody listens on %s%s in this network namespace: start the side with "
                     "role=server first, with the same socket=",
                     device->name, abstract ? "@" : "", path);
}

static int prepare_memif(struct port_device *device, uint16_t asked_mtu, char *error)
{
    char text[108];
    device->mtu = asked_mtu ? asked_mtu : MTU_DEFAULT;
    if (port_option(device->arguments, "zero-copy", text, sizeof text) && strcmp(text, "no") != 0)
        return eal_error(
            error, -EINVAL,
            "%s: zero-copy=yes maps all of this process's packets into the peer: leave "
            "it out",
            device->name);
    unsigned long least = (unsigned long)device->mtu + MEMIF_FRAME_OVERHEAD;
    long size = option_number(device, "bsize", 0);
    if (size != 0 && (size < (long)least || size > UINT16_MAX))
        return eal_error(error, -EINVAL,
                         "%s: bsize=%ld does not do for an MTU of %u, and would crash the peer: at "
                         "least %lu, on both sides, or leave it out",
                         device->name, size, device->mtu, least);
    if (size == 0 && least > MEMIF_BUFFER)
        add_option(device, "bsize", round_up(least, 64));
    char path[sizeof device->socket] = "/run/memif.sock"; /* the driver's default */
    port_option(device->arguments, "socket", path, sizeof path);
    bool abstract = !port_option(device->arguments, "socket-abstract", text, sizeof text) ||
                    strcmp(text, "no") != 0;
    bool server = port_option(device->arguments, "role", text, sizeof text) &&
                  (strcmp(text, "server") == 0 || strcmp(text, "master") == 0);
    if (!server)
        return check_memif_peer(device, path, abstract, error);
    /* The driver leaves the file of a listening socket behind. */
    if (!abstract)
        memcpy(device->socket, path, sizeof path);
    return 0;
}

/* "0000:03:00.0" or "03:00.0", arguments cut off. */
static bool is_pci(const char *name)
{
    unsigned domain, bus, slot, function;
    int used = 0;
    if (sscanf(name, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &used) == 4 &&
        !name[used])
        return true;
    used = 0;
    return sscanf(name, "%2x:%2x.%1x%n", &bus, &slot, &function, &used) == 3 && !name[used];
}

static bool find_kind(struct port_device *device)
{
    for (int kind = PORT_AF_PACKET; kind < PORT_PCI; kind++) {
        const char *names[2] = {drivers[kind].name, drivers[kind].alias};
        for (int i = 0; i < 2; i++) {
            size_t size = strlen(names[i]);
            if (strncmp(device->name, names[i], size) == 0 &&
                device->name[size + strspn(device->name + size, "0123456789")] == 0) {
                device->kind = (enum port_kind)kind;
                return true;
            }
        }
    }
    device->kind = PORT_PCI;
    return is_pci(device->name);
}

int port_device_prepare(struct port_device *device, const struct zh_port_config *config,
                        char *error)
{
    *device = (struct port_device){.control = -1};
    const char *text = config->device ? config->device : "";
    size_t name_size = strcspn(text, ",");
    const char *arguments = text[name_size] ? text + name_size + 1 : "";
    /* Room for what is added: four options. */
    if (name_size >= sizeof device->name || strlen(arguments) > sizeof device->arguments - 128)
        return eal_error(error, -EINVAL,
                         "a device's name has at most %zu characters and its "
                         "options have %zu",
                         sizeof device->name - 1, sizeof device->arguments - 128);
    memcpy(device->name, text, name_size);
    memcpy(device->arguments, arguments, strlen(arguments) + 1);
    if (!find_kind(device))
        return eal_error(error, -EINVAL,
                         "\"%s\" is no device that ports are made of: net_af_packet0,iface=NAME, "
                         "net_af_xdp0,iface=NAME, net_memif0, net_tap0, net_ring0 or the PCI "
                         "address of a NIC (0000:03:00.0)",
                         device->name);
    if (config->mtu && (config->mtu < MTU_MIN || config->mtu > MTU_MAX))
        return eal_error(error, -EINVAL, "an MTU is %d to %d, not %u", MTU_MIN, MTU_MAX,
                         config->mtu);
    switch (device->kind) {
    case PORT_AF_PACKET:
        return prepare_af_packet(device, config->mtu, error);
    case PORT_AF_XDP:
        return prepare_af_xdp(device, config->mtu, error);
    case PORT_MEMIF:
        return prepare_memif(device, config->mtu, error);
    case PORT_TAP:
    case PORT_PCI:
    case PORT_RING:
        break;
    }
    device->mtu = config->mtu ? config->mtu : MTU_DEFAULT;
    return 0;
}

void port_device_release(struct port_device *device)
{
    if (device->control >= 0)
        close(device->control);
    device->control = -1;
}

/* --- what went wrong -------------------------------------------------------------------------- */

static int is_loaded(struct dl_phdr_info *info, size_t size, void *library)
{
    (void)size;
    return info->dlpi_name && strstr(info->dlpi_name, library);
}

/* An option that the driver does not know. */
static bool unknown_option(const struct port_device *device, char *key, size_t size)
{
    const char *known = drivers[device->kind].options;
    for (const char *at = device->arguments; known && at && *at; at = strchr(at, ',')) {
        at += *at == ',';
        snprintf(key, size, " %.*s ", (int)strcspn(at, "=,"), at);
        if (!strstr(known, key))
            return true;
    }
    return false;
}

int port_device_explain(const struct port_device *device, int code, char *error)
{
    const char *library = drivers[device->kind].library;
    char log[200], key[40];
    if (library && !dl_iterate_phdr(is_loaded, (void *)(uintptr_t)library))
        return eal_error(error, -ENODEV,
                         "DPDK's driver %s.so is not loaded: install its package (Debian: "
                         "librte-net-*), or name its directory with the EAL argument -d DIRECTORY",
                         library);
    if (unknown_option(device, key, sizeof key))
        return eal_error(error, -EINVAL, "%s does not know the option%s(of \"%s\"): it knows%s",
                         device->name, key, device->arguments, drivers[device->kind].options);
    if (device->kind == PORT_PCI)
        return eal_error(
            error, code,
            "DPDK cannot use the device %s: it must exist (lspci -D), have a driver of "
            "DPDK's, and be bound to vfio-pci (dpdk-devbind.py --bind=vfio-pci %s; "
            "docs/stack.md)%s%s",
            device->name, device->name, eal_log_errors(log, sizeof log) ? ". DPDK: " : "", log);
    if (device->kind == PORT_TAP && access("/dev/net/tun", R_OK | W_OK) != 0)
        return eal_error(error, -errno, "%s needs /dev/net/tun: %s (modprobe tun; CAP_NET_ADMIN)",
                         device->name, strerror(errno));
    if (!eal_log_errors(log, sizeof log))
        snprintf(log, sizeof log, "%s", strerror(-code));
    if (device->kind == PORT_AF_XDP)
        return eal_error(error, code,
                         "%s cannot use %s: %s (another XDP program on it: ip link set dev %s xdp "
                         "off; memory that may be locked: ulimit -l; else net_af_packet)",
                         device->name, device->interface, log, device->interface);
    return eal_error(error, code, "DPDK cannot open %s with \"%s\": %s", device->name,
                     device->arguments, log);
}
