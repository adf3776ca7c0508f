"""Several processes on one port: each has a server of its own with SO_REUSEPORT."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from concurrent import futures

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


class Greeter(helloworld_pb2_grpc.GreeterServicer):
    def SayHello(self, request, context):
        return helloworld_pb2.HelloReply(message=f"{os.getpid()} greets {request.name}")


def work(address, ready):
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=2), options=(("grpc.so_reuseport", 1),)
    )
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    server.add_insecure_port(address)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
    ready.put(os.getpid())
    server.wait_for_termination()


@contextlib.contextmanager
def reserved_port():
    """A port that the workers may share."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def main(count):
    context = multiprocessing.get_context("fork")
    with reserved_port() as port:
        ready = context.Queue()
        workers = [
            context.Process(target=work, args=(f"localhost:{port}", ready)) for _ in range(count)
        ]
        for worker in workers:
            worker.start()
        pids = sorted(ready.get(timeout=30) for _ in workers)
        print(f"listening on port {port}", flush=True)
        print(*pids, flush=True)
        for line in sys.stdin:
            os.kill(int(line), signal.SIGTERM)
            next(worker for worker in workers if worker.pid == int(line)).join(20)
            print("stopped", line.strip(), flush=True)
        for worker in workers:
            worker.terminate()
            worker.join(20)


if __name__ == "__main__":
    main(int(sys.argv[1]))
