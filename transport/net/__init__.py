"""A TCP/IP stack of its own, on a DPDK port: sockets without the kernel, and without copies.

    from zerohop.transport.net import Stack

    with Stack("net_af_packet0,iface=veth1", "10.77.0.1/24") as stack:
        listener = stack.socket()
        listener.bind(("", 7))
        listener.listen()
        peer = listener.accept(timeout=None)
        while view := peer.recv(timeout=None):   # a memoryview on the packet that came
            peer.sendall(view, timeout=None)     # by reference, kept until acknowledged

One thread at a time uses a stack and its sockets; `Stack.wake`, `Stack.call_soon_threadsafe` and
the release of views are for any thread.
"""

try:
    from zerohop.transport.net import _net as _net
except ImportError as error:
    raise ImportError(
        "zerohop was built without its TCP/IP stack, because DPDK was not found: install "
        "libdpdk-dev (Debian) and build zerohop again"
    ) from error

from zerohop.transport.net.binding import ERR, HUP, IN, OUT
from zerohop.transport.net.ports import Bridge, Carried, Ceiling, Fault, ceiling
from zerohop.transport.net.socket import Address, Socket
from zerohop.transport.net.stack import Connection, Event, Route, Stack

__all__ = [
    "ERR",
    "HUP",
    "IN",
    "OUT",
    "Address",
    "Bridge",
    "Carried",
    "Ceiling",
    "Connection",
    "Event",
    "Fault",
    "Route",
    "Socket",
    "Stack",
    "ceiling",
]
