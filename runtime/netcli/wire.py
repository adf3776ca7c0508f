"""``zerohop net wire``: two ports joined, with faults between them."""

from __future__ import annotations

from collections.abc import Sequence

from zerohop.netcli import options

EPILOG = """\
The faults are those of both directions. All is drawn from the seed. The kernel must have no address
on the two interfaces (it would answer, too), and offloads belong off on the ends of the pairs:
  ethtool -K veth0 tx off rx off tso off gso off gro off

examples:
  zerohop net wire --a net_af_packet0,iface=x --b net_af_packet1,iface=y --delay 500us --loss 1%
  zerohop net wire --a net_af_packet0,iface=x --b net_af_packet1,iface=y \\
      --rate 1Gbit --queue 200 --reorder 2% --reorder-delay 1ms --seed 7
"""


def main(argv: Sequence[str]) -> int:
    parser = options.parser("wire", "Join two ports, with faults between them.", EPILOG)
    parser.add_argument("--a", required=True, metavar="DEVICE", help="as for zerohop net serve")
    parser.add_argument("--b", required=True, metavar="DEVICE", help="with another number")
    parser.add_argument("--delay", type=options.duration, default=0, help="one way, as 500us")
    parser.add_argument("--jitter", type=options.duration, default=0, help="0 to so much more")
    for name, what in (
        ("loss", "dropped"),
        ("duplicate", "sent twice"),
        ("corrupt", "with one bit changed"),
        ("reorder", "held back by --reorder-delay"),
    ):
        parser.add_argument(
            f"--{name}", type=options.share, default=0, metavar="SHARE", help=f"of packets: {what}"
        )
    parser.add_argument("--reorder-delay", type=options.duration, default=1e-3, help="default: 1ms")
    parser.add_argument("--rate", type=options.rate, default=0, help="as 1Gbit; default: no limit")
    parser.add_argument("--queue", type=int, default=0, help="packets before it (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: 1)")
    options.add_eal(parser)
    given = parser.parse_args(argv)
    from zerohop.transport.net import Bridge, Fault

    fault = Fault(
        loss=given.loss,
        duplicate=given.duplicate,
        corrupt=given.corrupt,
        reorder=given.reorder,
        reorder_delay=given.reorder_delay,
        delay=given.delay,
        jitter=given.jitter,
        rate=int(given.rate),
        queue=given.queue,
    )
    with (
        Bridge(given.a, given.b, fault, fault, seed=given.seed, eal=given.eal) as bridge,
        options.until_stopped(),
    ):
        print(f"{given.a} and {given.b} are joined, seed {given.seed}; Ctrl-C ends it", flush=True)
        with options.until_stopped():
            bridge.run()
        print()
        for name, stats in zip(("a to b", "b to a"), bridge.stats(), strict=True):
            parts = [f"{value:,} {key}" for key, value in stats._asdict().items() if value]
            print(f"{name}: {', '.join(parts) or 'nothing'}")
    return 0
