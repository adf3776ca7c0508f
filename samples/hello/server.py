"""A greeter that programs find by name.

    python samples/hello/server.py                        # in one terminal
    python samples/hello/client.py                        # in another

It is gRPC's helloworld: the same stubs, the same server. What is new is the target:

    zerohop:///hello        by name, wherever it runs: shared memory where both are on one machine
    shm:/tmp/hello.sock     shared memory, by the path of a socket
    unix:/tmp/hello.sock    plain gRPC, as is localhost:50051
"""

import argparse
import importlib
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zerohop.codegen.stubs import import_stubs

# Stock stubs of grpcio-tools, compiled the first time and after each change of the .proto file.
hello_pb2, hello_pb2_grpc = import_stubs(Path(__file__).with_name("hello.proto"))


class Greeter(hello_pb2_grpc.GreeterServicer):
    """The service."""

    def SayHello(self, request: Any, context: Any) -> Any:
        return hello_pb2.HelloReply(message=f"Hello, {request.name or 'world'}!")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the greeter.")
    parser.add_argument("--target", default="zerohop:///hello", help="default: %(default)s")
    target = parser.parse_args().target

    # zerohop has grpcio's interfaces, so the module is all that differs between the two.
    rpc = importlib.import_module("zerohop" if target.startswith(("zerohop:", "shm:")) else "grpc")

    server = rpc.server(ThreadPoolExecutor(max_workers=4))
    hello_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    try:
        server.add_insecure_port(target)
    except (RuntimeError, OSError) as error:
        sys.exit(f"cannot serve at {target}: {error}\nIs it in use, or its folder missing?")
    server.start()
    print(f"The greeter is at {target}. Ctrl-C stops it.", flush=True)

    # Ends calls in flight within a second, then wait_for_termination returns.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.stop(grace=1))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
