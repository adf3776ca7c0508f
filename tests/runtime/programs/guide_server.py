"""The guide's server."""

import signal
import sys
import threading
from concurrent import futures

import grpc
import guide_pb2_grpc
from guide_places import Route, key, place_at, places_in


class Guide(guide_pb2_grpc.GuideServicer):
    def __init__(self):
        self._notes = {}
        self._lock = threading.Lock()

    def GetPlace(self, request, context):
        if request.latitude < 0:
            context.abort(grpc.StatusCode.OUT_OF_RANGE, "off the map")
        context.send_initial_metadata((("map", "first edition"),))
        context.set_trailing_metadata((("scale", "1:1"),))
        return place_at(request)

    def ListPlaces(self, request, context):
        yield from places_in(request)

    def RecordRoute(self, request_iterator, context):
        route = Route()
        for where in request_iterator:
            route.add(where)
        return route.summary

    def Chat(self, request_iterator, context):
        notes = {}
        for note in request_iterator:
            yield from notes.setdefault(key(note), [])
            notes[key(note)].append(note)


def serve(address, threads):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=threads))
    guide_pb2_grpc.add_GuideServicer_to_server(Guide(), server)
    port = server.add_insecure_port(address)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
    print(f"listening on port {port}", flush=True)
    server.wait_for_termination()
    print("stopped", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10)
