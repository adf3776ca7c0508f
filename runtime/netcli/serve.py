"""``zerohop net serve``: files over HTTP/1.1, and echo, sink and source."""

from __future__ import annotations

import os
from collections.abc import Sequence

from zerohop.netcli import options
from zerohop.netcli.control import Control
from zerohop.netcli.stats import counters

EPILOG = """\
Ports 7000, 7001 and 7002 echo, swallow and send without end. The stack answers pings, and
`zerohop net stats` says what it does. A file that is being served must not be truncated in place.

On a veth pair switch the offloads of both ends off, since a kernel otherwise leaves checksums and
segmentation undone (or use --trust-checksum for the checksums alone):
  ethtool -K veth0 tx off rx off tso off gso off gro off

examples:
  zerohop net serve --port net_af_packet0,iface=veth1 --address 10.77.0.1/24
  zerohop net serve --port net_af_xdp0,iface=veth1 --address 10.77.0.1/24 --address fd77::1/64 \\
      --root /srv/files --http 8080 --pcap serve.pcap
"""

SERVICES = {"echo": 7000, "sink": 7001, "source": 7002}


def main(argv: Sequence[str]) -> int:
    parser = options.parser(
        "serve", "Serve files over HTTP/1.1, and echo, sink and source, on zerohop's stack.", EPILOG
    )
    options.add_stack(parser)
    parser.add_argument("--root", metavar="DIR", default=".", help="of the files (default: here)")
    parser.add_argument(
        "--http", metavar="PORT", type=int, default=80, help="of HTTP (default: 80; 0: none)"
    )
    parser.add_argument("--pcap", metavar="FILE", help="write all packets there, for tshark")
    given = parser.parse_args(argv)
    if given.http:
        try:
            from zerohop.netcli import http
        except ModuleNotFoundError as error:
            raise ValueError(
                f"HTTP needs the package {error.name}: pip install 'zerohop[net]', or give --http 0"
            ) from None
        if not os.path.isdir(given.root):
            raise ValueError(f"--root {given.root}: there is no such folder")
    with options.make_stack(given) as stack, options.until_stopped():
        control = Control(stack, given.port)
        try:
            if given.pcap:
                stack.capture(given.pcap)
            where = [one.partition("/")[0] for one in given.address]
            hosts = [f"[{one}]" if ":" in one else one for one in where]
            print(f"on {given.port} ({stack.mac}, MTU {stack.mtu}), process {os.getpid()}:")
            if given.http:
                http.listen(stack, given.http, given.root)
                suffix = "" if given.http == 80 else f":{given.http}"
                for host in hosts:
                    print(f"  http://{host}{suffix}/ serves {os.path.realpath(given.root)}")
            for kind, port in SERVICES.items():
                stack.start_service(kind, port)
                print(f"  {', '.join(where)} port {port}: {kind}")
            print("Ctrl-C ends it", flush=True)
            with options.until_stopped():
                while True:
                    stack.run()
            print()
            for line in counters(stack.stats(), stack.port_stats()):
                print(line)
        finally:
            control.close()
    return 0
