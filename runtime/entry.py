"""What one registry entry says: its JSON form, the checks on what a peer wrote, what it matches."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from zerohop.address import (
    MAX_NAME,
    Candidate,
    advertised_address,
    canonical_address,
    check_name,
    format_address,
    is_local,
    is_wildcard,
    normalize_ip,
    split_address,
)

VERSION = 1
MAX_BYTES = 64 << 10  # of an entry's file
MAX_ITEMS = 256  # names or addresses of an entry
MAX_TEXT = 4096  # characters of an address (a path may be long)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A server that is alive, as its process described it.

    `uid`, `key` and `socket_path` come from the file system; everything else is what the process
    says of itself, checked for form only.
    """

    key: str  # the entry's unique name inside the registry
    names: tuple[str, ...]
    addresses: tuple[str, ...]  # canonical: see zerohop.address
    advertise: tuple[str, ...]  # canonical host:port
    netns: int  # inode of its network namespace
    pid: int  # in its own pid namespace
    pidns: int  # inode of that namespace
    start_time: int  # clock ticks since boot: field 22 of /proc/PID/stat
    uid: int  # owner of the entry's file
    socket_path: str  # the unix SOCK_SEQPACKET socket that it accepts links on
    inodes: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict, hash=False)
    """(device, inode) of the unix: addresses' sockets: one path is many files in containers."""

    @property
    def started(self) -> float:
        """Seconds from the machine's boot to the process's start."""
        return self.start_time / os.sysconf("SC_CLK_TCK")


class Malformed(ValueError):
    """An entry's file that does not hold an entry."""


def encode(entry: Entry) -> bytes:
    """The file of an entry, whose fields the caller has checked. ValueError if it is too large."""
    data = json.dumps(
        {
            "version": VERSION,
            "names": entry.names,
            "addresses": entry.addresses,
            "advertise": entry.advertise,
            "inodes": entry.inodes,
            "netns": entry.netns,
            "pid": entry.pid,
            "pidns": entry.pidns,
            "start_time": entry.start_time,
            "socket": os.path.basename(entry.socket_path),
        },
        indent=1,
    ).encode()
    if len(data) > MAX_BYTES:
        raise ValueError(f"a registry entry of {len(data)} bytes; the limit is {MAX_BYTES}")
    return data


def decode(data: bytes, key: str, uid: int, socket_path: str) -> Entry:
    """Parse what a peer wrote. Raises Malformed, and nothing else, whatever the bytes are."""
    if len(data) > MAX_BYTES:
        raise Malformed(f"more than {MAX_BYTES} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Malformed("no JSON object")
    if _number(value, "version") != VERSION:
        raise Malformed(f"version {value['version']}, this zerohop reads {VERSION}")
    if value.get("socket") != os.path.basename(socket_path):
        raise Malformed("names a socket that is not its own")
    addresses = _texts(value, "addresses", MAX_TEXT, canonical_address)
    return Entry(
        key=key,
        names=_texts(value, "names", MAX_NAME, check_name),
        addresses=addresses,
        advertise=_texts(value, "advertise", MAX_TEXT, advertised_address),
        netns=_number(value, "netns"),
        pid=_number(value, "pid"),
        pidns=_number(value, "pidns"),
        start_time=_number(value, "start_time"),
        uid=uid,
        socket_path=socket_path,
        inodes=_inodes(value, addresses),
    )


def _number(value: Mapping[str, Any], field: str) -> int:
    number = value.get(field)
    if type(number) is not int or not 0 <= number < 1 << 64:
        raise Malformed(f"{field} is no number")
    return number


def _texts(
    value: Mapping[str, Any], field: str, limit: int, canonical: Callable[[str], str]
) -> tuple[str, ...]:
    items = value.get(field, [])
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise Malformed(f"{field} is no list of at most {MAX_ITEMS}")
    for item in items:
        if not isinstance(item, str) or len(item) > limit:
            raise Malformed(f"{field} holds something else than texts of {limit} characters")
        try:
            if canonical(item) != item:
                raise Malformed(f"{field}: {item!r} is not in canonical form")
        except ValueError as error:
            raise Malformed(f"{field}: {error}") from None
    return tuple(items)


def _inodes(value: Mapping[str, Any], addresses: Sequence[str]) -> dict[str, tuple[int, int]]:
    items = value.get("inodes", {})
    if not isinstance(items, dict) or len(items) > MAX_ITEMS:
        raise Malformed(f"inodes is no object of at most {MAX_ITEMS}")
    found = {}
    for address, pair in items.items():
        if address not in addresses or not isinstance(pair, list) or len(pair) != 2:
            raise Malformed("inodes does not fit the addresses")
        numbers = dict(zip(("device", "inode"), pair, strict=True))
        found[address] = (_number(numbers, "device"), _number(numbers, "inode"))
    return found


def socket_inode(address: str) -> tuple[int, int] | None:
    """(device, inode) of what a `unix:path` names here and now."""
    try:
        status = os.stat(address.removeprefix("unix:"))
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def matching(
    entries: Sequence[Entry], candidates: Sequence[Candidate], netns: int
) -> tuple[Entry, ...]:
    """The entries that a channel with these candidates would reach, seen from `netns`.

    Candidates are tried in order, as grpcio does, and the first that matches decides. Among
    matches of one address the more specific wins, as in the kernel: `127.0.0.1:p` over `[::]:p`.
    A wildcard stands for all addresses of its namespace, IPv4 and IPv6: grpcio binds
    `0.0.0.0:p` and `[::]:p` alike as one dual-stack socket.

    An advertised address is matched only where no candidate is an address of this machine. It is
    matched from every network namespace: a name means the same in all of them, which is why it
    has to be advertised on purpose.
    """
    here = [entry for entry in entries if entry.netns == netns]
    wanted = list(_canonical(candidates))
    local = False
    for address in wanted:
        ip, port = _address(address)
        if ip is None and not address.startswith("unix"):
            continue  # a name: only advertised ones match
        if ip and is_wildcard(ip):  # the kernel connects it to loopback
            ip = "127.0.0.1" if ip == "0.0.0.0" else "::1"
            address = format_address(ip, port)
        mine = ip is None or is_local(ip)
        found = [entry for entry in here if _listens(entry, address)]
        if not found and ip and mine:
            found = [entry for entry in here if _listens_everywhere(entry, port)]
        if found:
            return tuple(found)
        local = local or mine
    if not local:
        for address in wanted:
            found = [entry for entry in entries if address in entry.advertise]
            if found:
                return tuple(found)
    return ()


def _canonical(candidates: Sequence[Candidate]) -> Iterator[str]:
    for candidate in candidates:
        if isinstance(candidate, tuple):
            yield format_address(*candidate)
        else:
            with contextlib.suppress(ValueError):  # nobody can have published it
                yield canonical_address(candidate)


def _address(canonical: str) -> tuple[str | None, int]:
    """(IP address or None, port) of a canonical address."""
    if canonical.startswith(("unix:", "unix-abstract:")):
        return None, 0
    host, port = split_address(canonical)
    return normalize_ip(host), port


def _listens(entry: Entry, address: str) -> bool:
    if not address.startswith("unix:"):
        return address in entry.addresses
    if entry.inodes:
        inode = socket_inode(address)
        if inode is not None and inode in entry.inodes.values():
            return True
    return address in entry.addresses and address not in entry.inodes


def _listens_everywhere(entry: Entry, port: int) -> bool:
    return f"0.0.0.0:{port}" in entry.addresses or f"[::]:{port}" in entry.addresses
