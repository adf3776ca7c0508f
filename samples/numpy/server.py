"""A server that doubles numpy arrays where the client has them.

    python samples/numpy/server.py                        # in one terminal
    python samples/numpy/client.py                        # in another

What arrives is read in the client's memory, what is answered lies in the server's and is read
there: no array is copied on the way. arrays.py has what makes arrays of messages.
"""

from __future__ import annotations

import argparse
import signal
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from time import monotonic_ns
from typing import Any

import grpc
import numpy as np
import zerohop
from arrays import arrays_zerohop, copied, empty, no_room, put, target, view


class Calculator(arrays_zerohop.CalculatorServicer):
    def Double(self, request: Any, context: Any) -> Any:
        started = monotonic_ns()
        numbers = view(request.array)
        try:
            doubled = empty(numbers.shape)
        except zerohop.ArenaFull as error:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, no_room("server", numbers.nbytes, error)
            )
        np.multiply(numbers, 2, out=doubled)
        reply = arrays_zerohop.DoubleReply(
            received_crc32=zlib.crc32(numbers), doubled_crc32=zlib.crc32(doubled)
        )
        put(doubled, reply.array)
        reply.handler_ns = monotonic_ns() - started
        return reply

    def Count(self, request: Any, context: Any) -> Any:
        bytes_copied, bytes_built = copied()
        return arrays_zerohop.CountReply(bytes_copied=bytes_copied, bytes_built=bytes_built)


def main() -> None:
    parser = argparse.ArgumentParser(description="Double numpy arrays.")
    parser.add_argument(
        "--target", type=target, default="zerohop:///numpy", help="default: %(default)s"
    )
    at = parser.parse_args().target

    server = zerohop.server(ThreadPoolExecutor(max_workers=4))
    arrays_zerohop.add_CalculatorServicer_to_server(Calculator(), server)
    try:
        server.add_insecure_port(at)
    except (RuntimeError, OSError) as error:
        sys.exit(f"cannot serve at {at}: {error}\nIs it in use, or its folder missing?")
    server.start()
    print(f"The calculator is at {at}. Ctrl-C stops it.", flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop(grace=1))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
