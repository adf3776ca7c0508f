"""A client that makes its channel, and calls, before it forks workers that use it too."""

import os
import sys

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


def greet(stub, name):
    print(stub.SayHello(helloworld_pb2.HelloRequest(name=name), timeout=20).message, flush=True)


def main(target, call_first):
    unused = grpc.insecure_channel(target)
    stub = helloworld_pb2_grpc.GreeterStub(unused)
    if call_first:
        greet(stub, "parent before")
    pid = os.fork()
    if pid == 0:
        greet(stub, "inherited")
        with grpc.insecure_channel(target) as channel:
            greet(helloworld_pb2_grpc.GreeterStub(channel), "child")
        sys.exit(0)
    status = os.waitpid(pid, 0)[1]
    print("child ended with", status, flush=True)
    greet(stub, "parent after")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "first")
