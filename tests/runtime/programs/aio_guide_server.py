"""The guide's server, with asyncio."""

import asyncio
import signal
import sys

import grpc
import guide_pb2_grpc
from guide_places import Route, key, place_at, places_in


class Guide(guide_pb2_grpc.GuideServicer):
    async def GetPlace(self, request, context):
        if request.latitude < 0:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "off the map")
        await context.send_initial_metadata((("map", "first edition"),))
        context.set_trailing_metadata((("scale", "1:1"),))
        return place_at(request)

    async def ListPlaces(self, request, context):
        for place in places_in(request):
            yield place

    async def RecordRoute(self, request_iterator, context):
        route = Route()
        async for where in request_iterator:
            route.add(where)
        return route.summary

    async def Chat(self, request_iterator, context):
        notes = {}
        async for note in request_iterator:
            for earlier in notes.setdefault(key(note), []):
                await context.write(earlier)
            notes[key(note)].append(note)


async def serve(address):
    server = grpc.aio.server()
    guide_pb2_grpc.add_GuideServicer_to_server(Guide(), server)
    port = server.add_insecure_port(address)
    await server.start()
    loop = asyncio.get_running_loop()
    stopping = []
    loop.add_signal_handler(
        signal.SIGTERM, lambda: stopping.append(loop.create_task(server.stop(5)))
    )
    print(f"listening on port {port}", flush=True)
    await server.wait_for_termination()
    await asyncio.gather(*stopping)
    print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
