"""``zerohop net ping``: echo requests from the stack."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from zerohop.netcli import options

EPILOG = """\
The times are from the packet's being given to the port until it was taken from it.

examples:
  zerohop net ping 10.77.0.2 --port net_af_packet0,iface=veth1 --address 10.77.0.1/24 -c 5
"""


def main(argv: Sequence[str]) -> int:
    parser = options.parser("ping", "Ask a host for echoes (ICMP and ICMPv6).", EPILOG)
    parser.add_argument("host", metavar="ADDRESS")
    options.add_stack(parser)
    parser.add_argument("-c", "--count", type=int, default=0, help="how many (default: no end)")
    parser.add_argument(
        "-i", "--interval", type=options.duration, default=1.0, help="between two (default: 1s)"
    )
    parser.add_argument("-s", "--size", type=int, default=56, help="bytes of payload")
    parser.add_argument(
        "-W", "--timeout", type=options.duration, default=1.0, help="of one (default: 1s)"
    )
    given = parser.parse_args(argv)
    times: list[float] = []
    sent = 0
    with options.make_stack(given) as stack, options.until_stopped():
        with options.until_stopped():
            while not given.count or sent < given.count:
                sent += 1
                begun = time.monotonic()
                answer = stack.ping(
                    given.host, size=given.size, sequence=sent, timeout=given.timeout
                )
                if answer is None:
                    print(f"no answer from {given.host}: seq={sent}", flush=True)
                else:
                    times.append(answer[0] * 1e3)
                    print(
                        f"{given.size + 8} bytes from {given.host}: seq={sent} ttl={answer[1]} "
                        f"time={times[-1]:.3f} ms",
                        flush=True,
                    )
                if sent != given.count:
                    pause = begun + given.interval
                    while (left := pause - time.monotonic()) > 0:
                        stack.run(left)
        lost = 100 * (sent - len(times)) / max(sent, 1)
        print(f"{sent} sent, {len(times)} received, {lost:g} % lost")
        if times:
            middle = statistics.median(times)
            print(f"min/median/max {min(times):.3f}/{middle:.3f}/{max(times):.3f} ms")
    return 0 if times else 1
