"""The greeter's server."""

import os
import signal
import sys
import threading
from concurrent import futures

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


class Greeter(helloworld_pb2_grpc.GreeterServicer):
    def SayHello(self, request, context):
        if request.name == "whoever you are":
            return helloworld_pb2.HelloReply(message=f"I am {os.getpid()}")
        return helloworld_pb2.HelloReply(message=f"Hello, {request.name}!")


def serve(address, threads):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=threads))
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    port = server.add_insecure_port(address)
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    print(f"listening on port {port}", flush=True)
    stop.wait()
    server.stop(5).wait()
    print("stopped", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10)
