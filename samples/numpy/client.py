"""Send 100 MB of floats to be doubled, and get 100 MB back, without a copy.

    python samples/numpy/client.py
    python samples/numpy/client.py --megabytes 400 --calls 10

`samples/numpy/server.py` says how to start it.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from time import monotonic_ns

import grpc
import numpy as np
import zerohop
from arrays import arrays_zerohop, copied, empty, no_room, put, target, view

COLUMNS = 1000


def call(calculator: arrays_zerohop.CalculatorStub, rows: int) -> None:
    """Make an array, send it, check what has come back, and say how long it took."""
    numbers = empty((rows, COLUMNS))
    np.random.default_rng().random(out=numbers)
    crc32, total = zlib.crc32(numbers), numbers.sum()

    started = monotonic_ns()
    request = arrays_zerohop.DoubleRequest()
    put(numbers, request.array)
    reply = calculator.Double(request, timeout=60)
    doubled = view(reply.array)
    call_ns = monotonic_ns() - started

    if reply.received_crc32 != crc32:
        sys.exit("the server has read other numbers than the client wrote")
    if reply.doubled_crc32 != zlib.crc32(doubled) or doubled.sum() != 2 * total:
        sys.exit("the client reads other numbers than the server wrote")
    size, way_ns = f"{numbers.nbytes / 1e6:,.0f} MB", call_ns - reply.handler_ns
    print(
        f"{size} there, {size} back: {call_ns / 1e6:,.1f} ms; the server worked for "
        f"{reply.handler_ns / 1e6:,.1f} ms, the way took {way_ns / 1e3:,.0f} us; "
        f"checksums {crc32:08x}, {reply.doubled_crc32:08x}: right",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Have a numpy array doubled.")
    parser.add_argument(
        "--megabytes", type=int, default=100, help="the array's size (default: %(default)s)"
    )
    parser.add_argument("--calls", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument(
        "--target", type=target, default="zerohop:///numpy", help="default: %(default)s"
    )
    options = parser.parse_args()
    if not 1 <= options.megabytes <= 2000:
        parser.error(f"--megabytes {options.megabytes}: from 1 to 2000; one field holds 2 GiB")
    rows = options.megabytes * 1_000_000 // (COLUMNS * np.dtype(np.float64).itemsize)

    with zerohop.insecure_channel(options.target) as channel:
        calculator = arrays_zerohop.CalculatorStub(channel)
        count = arrays_zerohop.CountRequest()
        try:
            before = calculator.Count(count, timeout=5)
            for _ in range(options.calls):
                call(calculator, rows)
            after = calculator.Count(count, timeout=5)
        except zerohop.ArenaFull as error:
            sys.exit(no_room("client", options.megabytes * 1_000_000, error))
        except grpc.RpcError as error:  # zerohop's errors are grpc's errors
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                sys.exit(error.details())
            sys.exit(
                f"no answer: {error.code().name}: {error.details()}\n"
                f"Is the server up? python samples/numpy/server.py --target {options.target}"
            )
    ours, into = copied()
    theirs = after.bytes_copied - before.bytes_copied
    into_theirs = after.bytes_built - before.bytes_built
    print(f"bytes_copied: {ours} by the client, {theirs} by the server")
    print(f"bytes_built:  {into} by the client, {into_theirs} by the server")


if __name__ == "__main__":
    main()
