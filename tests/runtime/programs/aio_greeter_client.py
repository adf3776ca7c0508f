"""The greeter's client, with asyncio: greets each line of its input."""

import asyncio
import sys

import grpc
import helloworld_pb2
import helloworld_pb2_grpc


async def run(target):
    async with grpc.aio.insecure_channel(target) as channel:
        stub = helloworld_pb2_grpc.GreeterStub(channel)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                request = helloworld_pb2.HelloRequest(name=line.strip())
                reply = await stub.SayHello(request, timeout=10)
                print(f"Greeter client received: {reply.message}", flush=True)
            except grpc.RpcError as error:
                print(f"Greeter client failed: {error.code().name}", flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
