"""Pictures through four services in four processes, three ways side by side.

The camera reads photographs and sends them to resize, which sends them to edges, which sends them
to the catalogue; each is a process of its own and calls the next one with a stub. The ways are
grpcio and zerohop with stubs that grpcio-tools made of vision.proto, and zerohop with generated
messages, whose pixels the next service reads where they lie. The same processes do this each way
in turn, in slices of half a second, so that whatever else the machine does falls on all alike.

Start with resize.py to see what a service looks like, and with transports.py for what differs.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
from photos import NoPhotos, find_photos
from results import Results, percentile, table
from row import Row, RowError, running
from transports import BY_KEY, TRANSPORTS, Transport

SLICE_SECONDS = 0.5
WARM_UP_SECONDS = 0.4
# Of the time, for pictures that are handed on.
HAND_ON_SHARE = 0.2

EXAMPLES = """examples:
  python samples/vision/demo.py
  python samples/vision/demo.py --seconds 60 --size 1920x1080
  python samples/vision/demo.py --transports grpcio      # where zerohop is not built
  IMAGES=~/Pictures python samples/vision/demo.py        # your own photographs
"""


class Progress:
    """One line that is written over on a terminal; elsewhere a line per second."""

    def __init__(self, seconds: float, what: str):
        self._seconds = seconds
        self._what = what
        self._terminal = sys.stdout.isatty()
        self._started = self._last = time.monotonic()

    def show(self, results: Sequence[Results]) -> None:
        now = time.monotonic()
        if not self._terminal and now - self._last < 1:
            return
        self._last = now
        share = min(1.0, (now - self._started) / self._seconds)
        parts = [f"{share:4.0%} {self._what}"]
        for result in results:
            if result.frames:
                hop = percentile([ns for hop in result.latency_ns for ns in hop[-200:]], 50) / 1e3
                parts.append(f"{result.transport.key}: {result.fps:.0f} fps, hop {hop:,.0f} us")
        line = " | ".join(parts)
        if self._terminal:
            bar = "#" * round(share * 20)
            print(f"\r\033[K[{bar:<20}]{line}", end="", flush=True)
        else:
            print(line, flush=True)

    def finish(self) -> None:
        if self._terminal:
            print("\r\033[K", end="", flush=True)


def measure(
    row: Row, transports: Sequence[Transport], seconds: float, hand_on: bool
) -> list[Results]:
    """Let the camera shoot over each transport in turn until the time is up."""
    channels = [transport.channel(row.directory, "camera") for transport in transports]
    try:
        cameras = [
            transport.stubs.CameraStub(channel)
            for transport, channel in zip(transports, channels, strict=True)
        ]
        results = [Results(transport) for transport in transports]
        for transport, camera in zip(transports, cameras, strict=True):
            shoot(camera, transport, WARM_UP_SECONDS, hand_on)
        slice_seconds = min(SLICE_SECONDS, seconds / len(transports) / 2)
        rounds = max(1, round(seconds / slice_seconds / len(transports)))
        what = "handed on" if hand_on else "processed"
        progress = Progress(rounds * slice_seconds * len(transports), what)
        for number in range(rounds):
            order = list(zip(results, cameras, strict=True))
            for result, camera in order if number % 2 == 0 else reversed(order):
                before = row.counters(result.transport)
                reply = shoot(camera, result.transport, slice_seconds, hand_on)
                after = row.counters(result.transport)
                after.subtract(before)
                result.add(reply, after)
                progress.show(results)
        progress.finish()
        return results
    finally:
        for channel in channels:
            channel.close()


def shoot(camera: Any, transport: Transport, seconds: float, hand_on: bool) -> Any:
    milliseconds = max(1, round(seconds * 1000))
    request = transport.messages.ShootRequest(milliseconds=milliseconds, hand_on=hand_on)
    return camera.Shoot(request, timeout=seconds + 30)


def publish(row: Row, transport: Transport, out: Path) -> Any:
    with transport.channel(row.directory, "catalogue") as channel:
        catalogue = transport.stubs.CatalogueStub(channel)
        request = transport.messages.PublishRequest(directory=str(out))
        return catalogue.Publish(request, timeout=60)


def run(transports: Sequence[Transport], seconds: float, size: str, out: Path) -> None:
    photos = find_photos()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise RowError(f"{out}: {error.strerror}: choose another --out") from error
    print(f"{len(photos)} photographs from {photos[0].parent}, {size} from the camera", flush=True)
    print("Starting camera, resize, edges and catalogue ...", flush=True)
    with running(transports, size) as row:
        try:
            results = measure(row, transports, seconds * (1 - HAND_ON_SHARE), hand_on=False)
            handed_on = measure(row, transports, seconds * HAND_ON_SHARE, hand_on=True)
            published = publish(row, transports[0], out)
        except grpc.RpcError as error:
            time.sleep(0.2)  # what broke the call may be about to end
            if ended := row.ended():
                raise row.failure(ended[0]) from error
            raise RowError(f"a call failed: {error.code().name}: {error.details()}") from error
    measured = {
        "size": size,
        "transports": {r.transport.key: r.as_json() for r in results},
        "handed_on": {r.transport.key: r.as_json() for r in handed_on},
    }
    (out / "vision.json").write_text(json.dumps(measured, indent=1) + "\n")
    from chart import draw  # half a second of imports, after the measurement

    draw(results, out / "vision.png", size)
    print(f"\n{table(results, handed_on)}\n")
    print(f"{published.photos} photographs in {published.frames:,} frames: {out / 'index.html'}")
    print(f"Chart: {out / 'vision.png'}    Figures: {out / 'vision.json'}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    keys = [transport.key for transport in TRANSPORTS]
    parser.add_argument(
        "--seconds", type=float, default=24.0, help="how long to measure (default: %(default)g)"
    )
    parser.add_argument(
        "--size", default="800x600", help="what the camera delivers (default: %(default)s)"
    )
    parser.add_argument(
        "--transports",
        default=",".join(keys),
        help="which to use, the first being what others are compared with (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), help="where results go (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= 3600:
        parser.error(f"--seconds {options.seconds:g}: from above 0 to 3600")
    side = re.fullmatch(r"(\d+)x(\d+)", options.size)
    if not side or not all(16 <= int(length) <= 8192 for length in side.groups()):
        parser.error(f"--size {options.size}: WIDTHxHEIGHT, each from 16 to 8192, as in 800x600")
    chosen = options.transports.split(",")
    if unknown := sorted(set(chosen) - set(keys)):
        parser.error(f"--transports: no {', '.join(unknown)}; there are {', '.join(keys)}")
    options.transports = [BY_KEY[key] for key in dict.fromkeys(chosen)]
    return options


def stop(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        for transport in options.transports:
            # Now, so that what is missing is said once, and not by four services.
            if not callable(getattr(transport.rpc, "insecure_channel", None)):
                raise ImportError(f"{transport.module} is not built")
            _ = transport.stubs
        run(options.transports, options.seconds, options.size, options.out.absolute())
    except KeyboardInterrupt:
        print("\nInterrupted; the services have ended; no results were written.", file=sys.stderr)
        return 128 + signal.SIGINT
    except ImportError as error:
        print(
            f"error: {error}\n`make demo` builds zerohop; --transports grpcio does without it.",
            file=sys.stderr,
        )
        return 1
    except (NoPhotos, RowError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
