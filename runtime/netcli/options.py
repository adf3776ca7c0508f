"""What the commands share: options of a stack, numbers with units, signals."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zerohop.transport.net import Stack


def parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A command's, in the style of all."""
    return argparse.ArgumentParser(
        prog=f"zerohop net {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_stack(to: argparse.ArgumentParser) -> None:
    """The options of which `make_stack` makes a stack."""
    to.add_argument(
        "--port",
        required=True,
        metavar="DEVICE",
        help="as DPDK writes it: net_af_packet0,iface=veth1, net_af_xdp0,iface=veth1, 0000:03:00.0",
    )
    to.add_argument(
        "--address",
        required=True,
        action="append",
        metavar="ADDRESS/LENGTH",
        help="an own address, IPv4 or IPv6, with its network's prefix length; may be repeated",
    )
    to.add_argument("--gateway", metavar="ADDRESS", help="where all other networks are reached")
    to.add_argument("--mtu", type=int, default=0, help="default: the interface's")
    to.add_argument(
        "--congestion-control", metavar="NAME", choices=("cubic", "newreno"), help="default: cubic"
    )
    to.add_argument(
        "--trust-checksum",
        action="store_true",
        help="accept TCP segments whose checksum a kernel on this machine left undone (its tx "
        "offload is on)",
    )
    add_eal(to)


def add_eal(to: argparse.ArgumentParser) -> None:
    to.add_argument("--eal", metavar="ARGUMENTS", help="more arguments for DPDK, as --eal='-m 512'")


def make_stack(options: argparse.Namespace) -> Stack:
    from zerohop.transport.net import Stack

    return Stack(
        options.port,
        options.address,
        gateway=options.gateway,
        mtu=options.mtu,
        congestion_control=options.congestion_control,
        trust_checksum=options.trust_checksum,
        eal=options.eal,
    )


class Stop(Exception):
    """SIGTERM or Ctrl-C has come."""


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """SIGINT and SIGTERM end the body, without a traceback."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stop

    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stop:
        pass
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _unit(units: dict[str, float], what: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%")
        unit = text[len(number) :]
        if unit.lower() not in units:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}")
        try:
            value = float(number) * units[unit.lower()]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}") from None
        if value < 0:
            raise argparse.ArgumentTypeError(f"{text!r}: expected {what}, not below 0")
        return value

    return read


duration = _unit(
    {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}, "a time with its unit, such as 500us, 1ms or 2s"
)
rate = _unit(
    {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3, "bit": 1}, "a rate, such as 1Gbit, 100Mbit or 64kbit"
)
_share = _unit({"%": 0.01, "": 1}, "a share, such as 1% or 0.01")


def share(text: str) -> float:
    """0 to 1."""
    value = _share(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share is at most 100%")
    return value
