"""Ask the greeter for a greeting:

    python samples/hello/client.py
    python samples/hello/client.py Anna --target unix:/tmp/hello.sock

`samples/hello/server.py` says how to start it and what targets there are.
"""

import argparse
import importlib
import sys
from pathlib import Path

import grpc
from zerohop.codegen.stubs import import_stubs

hello_pb2, hello_pb2_grpc = import_stubs(Path(__file__).with_name("hello.proto"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Greet somebody.")
    parser.add_argument("name", nargs="?", default="world", help="default: %(default)s")
    parser.add_argument("--target", default="zerohop:///hello", help="default: %(default)s")
    options = parser.parse_args()
    target = options.target

    # zerohop has grpcio's interfaces, so the module is all that differs between the two.
    rpc = importlib.import_module("zerohop" if target.startswith(("zerohop:", "shm:")) else "grpc")

    with rpc.insecure_channel(target) as channel:
        greeter = hello_pb2_grpc.GreeterStub(channel)
        try:
            # Every call should have a deadline: here five seconds.
            reply = greeter.SayHello(hello_pb2.HelloRequest(name=options.name), timeout=5)
        except grpc.RpcError as error:  # zerohop's errors are grpc's errors
            sys.exit(
                f"no greeting: {error.code().name}: {error.details()}\n"
                f"Is the server up? python samples/hello/server.py --target {target}"
            )
    print(reply.message)


if __name__ == "__main__":
    main()
