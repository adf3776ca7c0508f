"""The greeter's client: greets each line of its input."""

import sys

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


def run(target):
    with grpc.insecure_channel(target) as channel:
        stub = helloworld_pb2_grpc.GreeterStub(channel)
        for line in sys.stdin:
            try:
                reply = stub.SayHello(helloworld_pb2.HelloRequest(name=line.strip()), timeout=10)
                print(f"Greeter client received: {reply.message}", flush=True)
            except grpc.RpcError as error:
                print(f"Greeter client failed: {error.code().name}", flush=True)


if __name__ == "__main__":
    run(sys.argv[1])
