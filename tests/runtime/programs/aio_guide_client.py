"""The guide's client, with asyncio."""

import asyncio
import sys

import grpc
import guide_pb2_grpc
from guide_places import BOX, NOTES, ROUTE, point, show


async def run(target):
    async with grpc.aio.insecure_channel(target) as channel:
        stub = guide_pb2_grpc.GuideStub(channel)
        show(await stub.GetPlace(point(4, 4)))
        show(await stub.GetPlace(point(4, 5), timeout=20))
        call = stub.GetPlace(point(1, 8), metadata=(("who", "me"),))
        show(await call)
        print(dict(await call.initial_metadata())["map"])
        print(dict(await call.trailing_metadata())["scale"])
        try:
            await stub.GetPlace(point(-1, 0))
        except grpc.aio.AioRpcError as error:
            print(error.code(), error.details())
        async for place in stub.ListPlaces(BOX):
            show(place)
        print(await stub.RecordRoute(iter(ROUTE)))
        recording = stub.RecordRoute()
        for where in ROUTE[:50]:
            await recording.write(where)
        await recording.done_writing()
        print((await recording).points)
        async for note in stub.Chat(iter(NOTES)):
            print(note.text)
        stream = stub.ListPlaces(BOX)
        show(await stream.read())
        stream.cancel()
        print(await stream.code(), await stream.details())
        chat = stub.Chat()
        for note in NOTES[:4]:
            await chat.write(note)
        print((await chat.read()).text)
        await chat.done_writing()
        print(await chat.read() is grpc.aio.EOF)
        for place in await asyncio.gather(*(stub.GetPlace(point(n, 2)) for n in range(8))):
            show(place)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
