"""The greeter's server, with asyncio."""

import asyncio
import signal
import sys

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


class Greeter(helloworld_pb2_grpc.GreeterServicer):
    async def SayHello(self, request, context):
        return helloworld_pb2.HelloReply(message=f"Hello, {request.name}!")


async def serve(address):
    server = grpc.aio.server()
    helloworld_pb2_grpc.add_GreeterServicer_to_server(Greeter(), server)
    port = server.add_insecure_port(address)
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(f"listening on port {port}", flush=True)
    await stop.wait()
    await server.stop(5)
    print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
