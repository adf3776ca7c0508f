"""Target and address syntax: what grpcio means by a target, and which addresses are this machine's.

Everything here is pure but three functions: `local_addresses` reads /proc, `resolve_candidates`
and `listening_addresses` ask the system's resolver, and only for names that are not addresses.

Addresses travel through the registry in one canonical spelling, so that equal addresses are
equal strings: `127.0.0.1:50051`, `[::1]:50051`, `name:50051` (lower case), `unix:/absolute/path`,
`unix-abstract:name`. An IPv4-mapped IPv6 address is spelled as the IPv4 address it is.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
import time
import urllib.parse
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["shm", "zerohop", "dns", "ipv4", "ipv6", "unix", "unix-abstract", "other"]
Candidate: TypeAlias = "tuple[str, int] | str"

DEFAULT_PORT = 443  # grpcio's: the port of https
MAX_NAME = 255
LOCAL_TTL = 1.0  # seconds that the list of this machine's addresses is kept

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-]{0,253})\Z")
# To the system's resolver `127.1` is an address in an old spelling; to grpcio's it is nothing.
_OLD_ADDRESS = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?\Z")
_SERVICES = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A parsed target. Which fields are set depends on `kind`.

    `other` is whatever zerohop leaves to grpcio: schemes it does not know, and targets that
    grpcio itself will refuse (its own error is the best one).
    """

    text: str
    kind: Kind
    path: str = ""  # shm, unix: the file; unix-abstract: the name without its NUL
    name: str = ""  # zerohop: the service's name
    host: str = ""  # dns: the host, as written, without brackets
    port: int = 0  # dns
    authority: str = ""  # dns: the name server asked for
    addresses: tuple[tuple[str, int], ...] = ()  # the addresses that need no lookup

    @property
    def native(self) -> bool:
        """Whether zerohop alone serves this target (`shm:` and `zerohop:`)."""
        return self.kind in ("shm", "zerohop")

    @property
    def needs_lookup(self) -> bool:
        """Whether `resolve_candidates` asks the resolver, which may take seconds."""
        return self.kind == "dns" and not self.addresses and not self.authority


def parse_target(target: str) -> Target:
    """Parse a target as grpcio does, plus `shm:` and `zerohop:`.

    Raises ValueError for a malformed `shm:` or `zerohop:` target only; any other target that
    makes no sense is of kind `other`.
    """
    match = _SCHEME.match(target)
    scheme = match[1].lower() if match else ""
    rest = target[match.end() :] if match else target
    if scheme == "shm":
        return _parse_shm(target, rest)
    if scheme == "zerohop":
        return _parse_zerohop(target, rest)
    if scheme in ("dns", "ipv4", "ipv6", "unix", "unix-abstract"):
        return _parse_known(target, scheme, *_split_uri(rest))
    if scheme in ("xds", "google-c2p", "google-c2p-experimental", "vsock"):
        return Target(target, "other")
    # Anything else is a host: `localhost:50051` too begins like a URI with a scheme.
    return _parse_host(target, urllib.parse.unquote(target), "")


def _parse_shm(target: str, rest: str) -> Target:
    path = rest[2:] if rest.startswith("///") else rest
    if not path or path.startswith("//") or "\0" in path:
        raise ValueError(f"target {target!r}: expected shm:/path/to/socket")
    return Target(target, "shm", path=os.path.abspath(path))


def _parse_zerohop(target: str, rest: str) -> Target:
    if rest.startswith("//") and not rest.startswith("///"):
        raise ValueError(f"target {target!r}: expected zerohop:///name, with three slashes")
    name = urllib.parse.unquote(rest.removeprefix("///").removeprefix("/"))
    try:
        return Target(target, "zerohop", name=check_name(name))
    except ValueError as error:
        raise ValueError(f"target {target!r}: {error}") from None


def check_name(name: str) -> str:
    """Return a service's name as it is, or raise ValueError."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"a service's name has 1 to {MAX_NAME} characters")
    if not name.isprintable() or name != name.strip():
        raise ValueError("a service's name is printable and neither begins nor ends in a space")
    return name


def _split_uri(rest: str) -> tuple[str, str]:
    """(authority, path) of what follows a scheme, decoded. grpcio's parser takes any character."""
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority = ""
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        rest = slash + path
    return urllib.parse.unquote(authority), urllib.parse.unquote(rest)


def _parse_known(target: str, scheme: str, authority: str, path: str) -> Target:
    other = Target(target, "other")
    if scheme == "dns":
        return _parse_host(target, path.removeprefix("/"), authority)
    if authority or not path:
        return other  # grpcio refuses an authority for all of these
    if scheme in ("unix", "unix-abstract"):
        if "," in path or "\0" in path:  # several sockets; none
            return other
        return Target(target, "unix" if scheme == "unix" else "unix-abstract", path=path)
    addresses = []
    for item in path.removeprefix("/").split(","):
        host, port = _split_host_port(item)
        ip = normalize_ip(host)
        number = _port_number(port)
        if ip is None or not number or (":" in host) != (scheme == "ipv6"):
            return other
        addresses.append((ip, number))
    return Target(target, "ipv4" if scheme == "ipv4" else "ipv6", addresses=tuple(addresses))


def _parse_host(target: str, text: str, authority: str) -> Target:
    host, port = _split_host_port(text)
    number = _port_number(port) if port else DEFAULT_PORT
    ip = normalize_ip(host)
    if not number or (ip is None and (not _HOST.match(host) or _OLD_ADDRESS.match(host))):
        return Target(target, "other")
    addresses = ((ip, number),) if ip is not None else ()
    return Target(target, "dns", "", "", host, number, authority, addresses)


def _split_host_port(text: str) -> tuple[str, str]:
    """Split as grpcio's SplitHostPort does: two colons without brackets are an IPv6 address."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in host:
            return "", ""
        return host, port[1:]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, ""


def _port_number(text: str) -> int:
    """The port's number, or 0 for what is none."""
    if text in _SERVICES:
        return _SERVICES[text]
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        return 0
    number = int(text)
    return number if number < 65536 else 0


def normalize_ip(text: str) -> str | None:
    """The canonical spelling of an IP address without its zone, or None for what is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def is_wildcard(ip: str) -> bool:
    """Whether a normalized address stands for all addresses of a network namespace."""
    return ip in ("0.0.0.0", "::")


def is_loopback(ip: str) -> bool:
    """Whether a normalized address is one of 127.0.0.0/8 or ::1."""
    return ip == "::1" or (ip.startswith("127.") and ":" not in ip)


def is_local(ip: str) -> bool:
    """Whether a normalized address is one of this network namespace's.

    A wildcard is: the kernel takes a connection to one as a connection to loopback.
    """
    return is_wildcard(ip) or is_loopback(ip) or ip in local_addresses()


_local: tuple[float, int, frozenset[str]] = (float("-inf"), 0, frozenset())


def local_addresses() -> frozenset[str]:
    """All addresses of the calling thread's network namespace, loopback included.

    Kept for a second. From /proc, which also works where a sandbox forbids netlink sockets.
    """
    global _local
    now = time.monotonic()
    namespace = network_namespace()
    expiry, of_namespace, addresses = _local
    if now >= expiry or of_namespace != namespace:
        addresses = frozenset({"127.0.0.1", "::1"} | _read_ipv4() | _read_ipv6())
        _local = (now + LOCAL_TTL, namespace, addresses)
    return addresses


def _read_ipv4() -> set[str]:
    found: set[str] = set()
    last = ""
    for line in _read_lines("/proc/thread-self/net/fib_trie"):
        text = line.strip()
        if text.startswith("|-- "):
            last = text[4:]
        elif text.startswith("/32 host LOCAL"):
            found.add(last)
    return found


def _read_ipv6() -> set[str]:
    found: set[str] = set()
    for line in _read_lines("/proc/thread-self/net/if_inet6"):
        digits = line.partition(" ")[0]
        if len(digits) == 32:
            found.add(str(ipaddress.IPv6Address(int(digits, 16))))
    return found


def _read_lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []  # no IPv6, or no /proc: loopback is known anyway


def network_namespace() -> int:
    """The inode of the calling thread's network namespace; 0 where /proc does not tell."""
    try:
        return os.stat("/proc/thread-self/ns/net").st_ino
    except OSError:
        return 0


def resolve_candidates(target: Target | str) -> list[tuple[str, int]]:
    """The (address, port) pairs that grpcio would try for a target, in its order.

    Asks the resolver only for a name, and then blocks as long as it takes. A name that does not
    resolve, a `unix:` target and one that names its own DNS server give an empty list.
    """
    parsed = parse_target(target) if isinstance(target, str) else target
    if not parsed.needs_lookup:
        return list(parsed.addresses)
    return _lookup(parsed.host, parsed.port)


def _lookup(host: str, port: int) -> list[tuple[str, int]]:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    found = dict.fromkeys((normalize_ip(str(info[4][0])), port) for info in infos)
    if host.lower() == "localhost":
        # grpcio's resolver gives both, whatever /etc/hosts holds.
        found |= dict.fromkeys([("::1", port), ("127.0.0.1", port)])
    return [(ip, port) for ip, port in found if ip is not None]


def candidates(target: Target | str) -> list[Candidate]:
    """All that `Registry.lookup_address` can match for a target: addresses, then its own name."""
    parsed = parse_target(target) if isinstance(target, str) else target
    if parsed.kind in ("unix", "unix-abstract"):
        return [f"{parsed.kind}:{parsed.path}"]
    found: list[Candidate] = list(resolve_candidates(parsed))
    if parsed.kind == "dns" and not parsed.addresses:
        found.append(format_address(parsed.host, parsed.port))
    return found


def format_address(host: str, port: int) -> str:
    """The canonical spelling of a host, or an address in any spelling, with its port."""
    ip = normalize_ip(host)
    if ip is None:
        return f"{host.lower().removesuffix('.')}:{port}"
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def split_address(canonical: str) -> tuple[str, int]:
    """The host and the port of a canonical `host:port`."""
    host, _, port = canonical.rpartition(":")
    return host.strip("[]"), int(port)


def canonical_address(text: str) -> str:
    """The canonical spelling of `host:port`, `unix:path` or `unix-abstract:name`.

    Raises ValueError for anything else. Nothing is looked up: a name stays a name.
    """
    kind, colon, path = text.partition(":")
    if kind in ("unix", "unix-abstract") and colon:
        if not path or "\0" in path or not path.isprintable():
            raise ValueError(f"address {text!r}: expected {kind}:path")
        if kind == "unix":
            path = os.path.abspath(path[2:] if path.startswith("///") else path)
        return f"{kind}:{path}"
    host, port = _split_host_port(text)
    number = _port_number(port)
    if not number or not (normalize_ip(host) or _HOST.match(host)):
        raise ValueError(f"address {text!r}: expected HOST:PORT with a port from 1 to 65535")
    return format_address(host, number)


def listening_addresses(text: str) -> list[str]:
    """What a server's address, as given to `add_insecure_port`, listens on, in canonical form.

    A name is looked up here, by the server, as grpcio does when it binds; so a peer that reads
    the registry never asks a resolver for what somebody else wrote.
    """
    canonical = canonical_address(urllib.parse.unquote(text))
    if canonical.startswith(("unix:", "unix-abstract:")):
        return [canonical]
    host, port = split_address(canonical)
    if normalize_ip(host) is not None:
        return [canonical]
    found = [format_address(*pair) for pair in _lookup(host, port)]
    if not found:
        raise ValueError(f"address {text!r}: {host!r} does not resolve to an address")
    return found


def bound_address(text: str, port: int) -> str:
    """What to publish for `add_insecure_port(text)` that returned `port`."""
    if text.startswith(("unix:", "unix-abstract:")):
        return text
    host, _ = _split_host_port(urllib.parse.unquote(text))
    return format_address(host, port)


def advertised_address(text: str) -> str:
    """The canonical spelling of what `--advertise` takes; ValueError with the reason otherwise.

    Loopback and wildcards are refused: they mean another machine, or another container, to each
    who reads them, and would capture its local traffic.
    """
    canonical = canonical_address(text)
    if canonical.startswith(("unix:", "unix-abstract:")):
        raise ValueError(f"cannot advertise {text!r}: expected HOST:PORT")
    host, _ = split_address(canonical)
    local = host == "localhost" or host.endswith(".localhost")
    if local or is_wildcard(host) or is_loopback(host):
        raise ValueError(f"cannot advertise {text!r}: it means something else to each who reads it")
    return canonical
