"""``zerohop net stats``: what a running stack has done, and its connections."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zerohop.netcli import control, options

EPILOG = """\
Without --pid, of the one stack that runs here under this user; `zerohop net serve` can be asked.

examples:
  zerohop net stats
  zerohop net stats --connections
  zerohop net stats --pid 4711 --json | jq .stats.tcp_out_retransmitted
  zerohop net stats --pcap out.pcap     capture from now on
  zerohop net stats --pcap ''           and no longer
"""

_GROUPS = (
    ("Ethernet", ("ether_",)),
    ("neighbours", ("arp_", "neighbour_")),
    ("IP", ("ip_", "fragments_")),
    ("ICMP", ("icmp_",)),
    ("TCP", ("tcp_", "bytes_")),
)


def counters(stats: Mapping[str, int], port: Mapping[str, int]) -> list[str]:
    """Those that are not 0, by protocol, with what they count."""
    from zerohop.transport.net.stack import COUNTERS

    lines = []
    for title, prefixes in _GROUPS:
        found = [(n, v) for n, v in stats.items() if v and n.startswith(prefixes)]
        if found:
            lines.append(f"{title}:")
            lines += [f"  {value:>14,} {COUNTERS.get(name, name)}" for name, value in found]
    lines.append("port:")
    lines += [f"  {value:>14,} {name}" for name, value in port.items() if value]
    return lines


def table(connections: Iterable[Mapping[str, Any]]) -> list[str]:
    """As ss prints it."""
    rows = [("State", "Recv-Q", "Send-Q", "Local", "Peer", "")]
    for one in connections:
        more = ""
        if one["mss"]:
            more = (
                f"{one['congestion_control']} mss:{one['mss']} cwnd:{one['cwnd']} "
                f"rtt:{one['rtt_us'] / 1000:g}ms rto:{one['rto_us'] / 1000:g}ms "
                f"retrans:{one['retransmissions']}"
            )
            if one["ssthresh"] is not None:
                more += f" ssthresh:{one['ssthresh']}"
        rows.append(
            (
                one["state"],
                str(one["receive_queue"]),
                str(one["send_queue"]),
                _address(*one["local"]),
                "*" if one["state"] == "LISTEN" else _address(*one["peer"]),
                more,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]
        ).rstrip()
        for row in rows
    ]


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main(argv: Sequence[str]) -> int:
    parser = options.parser("stats", "Counters and connections of a running stack.", EPILOG)
    parser.add_argument("--pid", type=int, help="of which process (default: the only one)")
    parser.add_argument("--connections", action="store_true", help="the connections alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--pcap", metavar="FILE", help="write packets there; '' ends that")
    given = parser.parse_args(argv)
    pid = given.pid or _only()
    if given.pcap is not None:
        path = os.path.abspath(given.pcap) if given.pcap else ""
        control.ask(pid, f"capture {path}".rstrip())
        print(f"process {pid} captures to {path}" if path else f"process {pid} captures no more")
        return 0
    answer = control.ask(pid, "stats")
    if given.json:
        print(json.dumps(answer, indent=2))
        return 0
    if not given.connections:
        print(f"process {pid} on {answer['port']} ({answer['mac']})")
        for line in counters(answer["stats"], answer["port_stats"]):
            print(line)
        print()
    for line in table(answer["connections"]):
        print(line)
    return 0


def _only() -> int:
    alive = []
    for pid in control.running():
        try:
            control.ask(pid, "stats")
        except OSError:
            continue
        alive.append(pid)
    if not alive:
        raise ValueError("no stack runs here; zerohop net serve starts one")
    if len(alive) > 1:
        raise ValueError(f"several stacks run here: --pid {' or '.join(map(str, alive))}")
    return alive[0]
