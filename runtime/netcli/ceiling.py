"""``zerohop net ceiling``: what a port itself can do."""

from __future__ import annotations

from collections.abc import Sequence

from zerohop.netcli import options

EPILOG = """\
Equal frames, as fast as the device takes them, without a stack: the rate that a stack on this port
is to be compared with. The frames' Ethernet type is one for local experiments (0x88b5), which
nobody reads.

examples:
  zerohop net ceiling --port net_af_packet0,iface=veth1
  zerohop net ceiling --port net_af_xdp0,iface=veth1 --size 64 --size 1514 --seconds 5
"""


def main(argv: Sequence[str]) -> int:
    parser = options.parser("ceiling", "Blast equal frames and say what the port took.", EPILOG)
    parser.add_argument("--port", required=True, metavar="DEVICE", help="as for zerohop net serve")
    parser.add_argument(
        "--size",
        action="append",
        type=int,
        help="of a frame, Ethernet header included; may be repeated (default: 64 and 1514)",
    )
    parser.add_argument(
        "--to",
        metavar="MAC",
        default="02:00:00:00:00:00",
        help="of whom (default: nobody, 02:00:00:00:00:00)",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size (default: 2)")
    options.add_eal(parser)
    given = parser.parse_args(argv)
    try:
        to = bytes.fromhex(given.to.replace(":", ""))
    except ValueError:
        to = b""
    if len(to) != 6:
        parser.error(f"--to {given.to}: a hardware address is as 02:00:00:00:00:00")
    from zerohop.transport.net import ceiling

    with options.until_stopped():
        for size in given.size or (64, 1514):
            found = ceiling(given.port, size, to, given.seconds, eal=given.eal)
            seconds = max(found.seconds, 1e-9)
            print(
                f"{size:>6} bytes: {found.frames / seconds:>12,.0f} frames/s "
                f"{found.bytes * 8 / seconds / 1e9:>7.2f} Gbit/s",
                flush=True,
            )
    return 0
