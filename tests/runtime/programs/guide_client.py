"""The guide's client: all four kinds of call, and their other forms."""

import sys

import grpc
import guide_pb2_grpc
from guide_places import BOX, NOTES, ROUTE, point, show


def run(target):
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        stub = guide_pb2_grpc.GuideStub(channel)
        show(stub.GetPlace(point(4, 4)))
        show(stub.GetPlace(point(4, 5), timeout=20))
        show(stub.GetPlace.future(point(6, 2)).result())
        place, call = stub.GetPlace.with_call(point(1, 8), metadata=(("who", "me"),))
        show(place)
        print(dict(call.initial_metadata())["map"], dict(call.trailing_metadata())["scale"])
        try:
            stub.GetPlace(point(-1, 0))
        except grpc.RpcError as error:
            print(error.code(), error.details())
        for place in stub.ListPlaces(BOX):
            show(place)
        print(stub.RecordRoute(iter(ROUTE)))
        print(stub.RecordRoute.with_call(iter(ROUTE[:50]))[0].points)
        print(stub.RecordRoute.future(iter(ROUTE[:7])).result().points)
        for note in stub.Chat(iter(NOTES)):
            print(note.text)
        stream = stub.ListPlaces(BOX)
        show(next(stream))
        stream.cancel()
        print(stream.code(), stream.details(), stream.cancelled())
        too_late = stub.Chat(until(channel), timeout=0.2)
        try:
            print(next(too_late))
        except grpc.RpcError as error:
            print(error.code())


def until(channel):
    """No requests, and no end either."""
    import threading

    threading.Event().wait(2)
    yield from ()


if __name__ == "__main__":
    run(sys.argv[1])
