"""Streams in every order: who ends first, who reads late, and what is left unread."""

from __future__ import annotations

import itertools
import queue
import threading

import grpc
import pytest
from apiharness import WAIT, code_and_details, settled
from zhtest.types_pb2 import EchoReply, EchoRequest

# More messages than any implementation lets a client send before it hears of the end.
FOR_EVER = 1_000_000
UNREAD = (grpc.StatusCode.UNKNOWN, "Exception iterating requests!")


class Feed:
    """A request iterator that is filled step by step."""

    END = object()

    def __init__(self):
        self._queue = queue.Queue()

    def send(self, *texts):
        for text in texts:
            self._queue.put(EchoRequest(text=text))

    def end(self):
        self._queue.put(self.END)

    def __iter__(self):
        return self

    def __next__(self):
        request = self._queue.get(timeout=WAIT)
        if request is self.END:
            raise StopIteration
        return request


@pytest.mark.inline_ok
def test_server_stream(impl):
    peer = impl.serve()
    call = peer.stub.ServerStream(EchoRequest(text="x", count=5))
    assert [(reply.text, reply.index) for reply in call] == [("x", index) for index in range(5)]
    assert call.code() is grpc.StatusCode.OK
    assert call.details() == ""
    # The end is the end.
    with pytest.raises(StopIteration):
        next(call)
    with pytest.raises(StopIteration):
        next(call)


@pytest.mark.inline_ok
def test_client_stream(impl):
    peer = impl.serve()
    reply = peer.stub.ClientStream(EchoRequest(text=text) for text in "abc")
    assert reply == EchoReply(text="a,b,c", index=3)
    reply, call = peer.stub.ClientStream.with_call(iter([EchoRequest(text="x")]), timeout=WAIT)
    assert reply.text == "x"
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.inline_ok
def test_bidi(impl):
    peer = impl.serve()
    call = peer.stub.Bidi(EchoRequest(text=text) for text in "abc")
    assert [(reply.text, reply.index) for reply in call] == [("a", 0), ("b", 1), ("c", 2)]
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.inline_ok
def test_empty_streams(impl):
    peer = impl.serve()
    assert list(peer.stub.ServerStream(EchoRequest(count=0))) == []
    assert peer.stub.ClientStream(iter(())) == EchoReply()
    assert list(peer.stub.Bidi(iter(()))) == []


@pytest.mark.inline_ok
def test_streams_of_empty_messages(impl):
    """A message of no bytes is a message."""
    peer = impl.serve()
    assert len(list(peer.stub.ServerStream(EchoRequest(count=1)))) == 1
    assert peer.stub.ClientStream(iter([EchoRequest()] * 3)).index == 3
    assert len(list(peer.stub.Bidi(iter([EchoRequest()] * 3)))) == 3


def test_ping_pong(impl):
    """Each request is sent only when the reply to the one before has been read."""
    peer = impl.serve()
    feed = Feed()
    call = peer.stub.Bidi(feed)
    for number in range(200):
        feed.send(str(number))
        assert next(call).text == str(number)
    feed.end()
    with pytest.raises(StopIteration):
        next(call)


def test_half_close_before_reading(impl):
    """All requests are sent and the stream is half-closed before anybody reads a reply."""
    half_closed = threading.Event()

    def handler(requests, context):
        texts = [request.text for request in requests]
        half_closed.set()
        for text in texts:
            yield EchoReply(text=text)

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(EchoRequest(text=text) for text in "abc")
    assert half_closed.wait(WAIT)
    assert [reply.text for reply in call] == ["a", "b", "c"]


def test_server_goes_on_after_the_half_close(impl):
    gate = impl.gate()

    def handler(requests, context):
        for _ in requests:
            pass
        yield EchoReply(text="all read")
        gate.wait(WAIT)
        for index in range(3):
            yield EchoReply(index=index)

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(iter([EchoRequest()]))
    assert next(call).text == "all read"
    gate.set()
    assert [reply.index for reply in call] == [0, 1, 2]


def test_client_half_closes_late(impl):
    """The server has sent everything it has; the requests end afterwards."""
    feed = Feed()

    def handler(requests, context):
        for index in range(3):
            yield EchoReply(index=index)
        yield EchoReply(index=100 + sum(1 for _ in requests))

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(feed)
    assert [next(call).index for _ in range(3)] == [0, 1, 2]
    feed.send("a", "b")
    feed.end()
    assert [reply.index for reply in call] == [102]


def test_server_speaks_first(impl):
    feed = Feed()

    def handler(requests, context):
        yield EchoReply(text="welcome")
        for request in requests:
            yield EchoReply(text=request.text)

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(feed)
    assert next(call).text == "welcome"
    feed.send("x")
    assert next(call).text == "x"
    feed.end()
    assert list(call) == []


def test_reply_before_all_requests_are_read(impl):
    """A client-streaming handler may answer early; what the client sends later is dropped."""
    feed = Feed()

    def handler(requests, context):
        return EchoReply(text=next(requests).text)

    peer = impl.serve(client_stream=handler)
    future = peer.stub.ClientStream.future(feed)
    feed.send("first")
    assert future.result(timeout=WAIT).text == "first"
    feed.send("second", "third")
    feed.end()
    assert future.code() is grpc.StatusCode.OK


def test_server_ends_without_reading(impl):
    feed = Feed()
    peer = impl.serve(
        client_stream=lambda requests, context: EchoReply(text="unread"),
        bidi=lambda requests, context: iter([EchoReply(text="unread")]),
    )
    assert peer.stub.ClientStream(feed, timeout=WAIT).text == "unread"
    assert [reply.text for reply in peer.stub.Bidi(feed, timeout=WAIT)] == ["unread"]
    feed.end()
    feed.end()


def test_server_ends_while_the_client_sends_without_end(impl):
    """The request iterator is not asked for ever after the call has ended."""
    count = [0]

    def endless():
        for number in itertools.count(1):
            count[0] = number
            yield EchoRequest(text=str(number))

    def handler(requests, context):
        for request in requests:
            yield EchoReply(text=request.text)
            if request.text == "5":
                return

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(endless(), timeout=WAIT)
    assert [reply.text for reply in call] == ["1", "2", "3", "4", "5"]
    assert settled(lambda: count[0], FOR_EVER) < FOR_EVER


def test_server_fails_while_the_client_sends(impl):
    count = [0]

    def endless():
        for number in itertools.count():
            count[0] = number
            yield EchoRequest()

    def handler(requests, context):
        next(requests)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")

    peer = impl.serve(client_stream=handler)
    assert code_and_details(lambda: peer.stub.ClientStream(endless(), timeout=WAIT)) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "enough",
    )
    assert settled(lambda: count[0], FOR_EVER) < FOR_EVER


def test_request_iterator_raises(impl, caplog):
    received = threading.Event()
    over = threading.Event()

    def handler(requests, context):
        context.add_callback(over.set)
        for _ in requests:
            received.set()
        return EchoReply()

    def requests():
        yield EchoRequest()
        received.wait(WAIT)
        raise ValueError("no more requests")

    peer = impl.serve(client_stream=handler)
    assert code_and_details(lambda: peer.stub.ClientStream(requests(), timeout=WAIT)) == UNREAD
    assert over.wait(WAIT)
    assert any(
        record.getMessage() == "Exception iterating requests!" and record.exc_info
        for record in caplog.records
    )


def test_request_iterator_of_a_bidi_call_raises(impl):
    def requests():
        yield EchoRequest()
        raise ValueError("no more requests")

    peer = impl.serve()
    call = peer.stub.Bidi(requests(), timeout=WAIT)
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    assert (raised.value.code(), raised.value.details()) == UNREAD


def test_requests_that_are_no_iterator(impl):
    """As in grpcio, a list is not taken: it has no `__next__`."""
    peer = impl.serve()
    call = peer.stub.ClientStream
    assert code_and_details(lambda: call([EchoRequest()], timeout=WAIT)) == UNREAD


def test_request_iterator_runs_in_another_thread(impl):
    """So it may wait for what the caller does after the call has been started."""
    threads = []
    gate = impl.gate()

    def requests():
        threads.append(threading.current_thread())
        gate.wait(WAIT)
        yield EchoRequest(text="x")

    peer = impl.serve()
    call = peer.stub.Bidi(requests())
    gate.set()
    assert next(call).text == "x"
    assert threads[0] is not threading.current_thread()


def test_handler_may_send_without_reading(impl):
    """One thread of the handler reads while the generator sends."""
    feed = Feed()
    read = queue.Queue()

    def handler(requests, context):
        reader = threading.Thread(target=lambda: [read.put(r.text) for r in requests])
        reader.start()
        for index in range(100):
            yield EchoReply(index=index)
        reader.join(WAIT)

    peer = impl.serve(bidi=handler)
    call = peer.stub.Bidi(feed)
    received = []
    for number in range(100):
        feed.send(str(number))
        received.append(next(call).index)
    feed.end()
    assert list(call) == []
    assert received == list(range(100))
    assert [read.get(timeout=WAIT) for _ in range(100)] == [str(n) for n in range(100)]


def test_many_streams_at_once(impl):
    peer = impl.serve(workers=20)
    feeds = [Feed() for _ in range(15)]
    calls = [peer.stub.Bidi(feed) for feed in feeds]
    for round_ in range(20):
        for number, feed in enumerate(feeds):
            feed.send(f"{number}/{round_}")
        for number, call in reversed(list(enumerate(calls))):
            assert next(call).text == f"{number}/{round_}"
    for feed in feeds:
        feed.end()
    assert [list(call) for call in calls] == [[]] * 15


def test_unary_calls_beside_an_open_stream(impl):
    peer = impl.serve()
    feed = Feed()
    call = peer.stub.Bidi(feed)
    for number in range(20):
        feed.send(str(number))
        assert peer.stub.Unary(EchoRequest(text="u")).text == "u"
        assert next(call).text == str(number)
    feed.end()
    assert list(call) == []


def test_two_threads_read_one_stream(impl):
    """Each reply goes to one of them, and both see the end."""
    peer = impl.serve()
    call = peer.stub.ServerStream(EchoRequest(count=200))
    lock = threading.Lock()
    read = threading.Lock()
    seen = []
    ended = []

    def reader():
        while True:
            # grpcio's own iterator is not made for two readers at the same instant.
            with read:
                reply = next(call, None)
            if reply is None:
                break
            with lock:
                seen.append(reply.index)
        ended.append(1)

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert sorted(seen) == list(range(200))
    assert ended == [1, 1]


def test_stream_within_a_handler(impl):
    """A handler that passes on the stream of another server."""
    back = impl.serve("back")

    def handler(request, context):
        yield from back.stub.ServerStream(request)

    front = impl.serve("front", server_stream=handler)
    replies = list(front.stub.ServerStream(EchoRequest(text="x", count=50), timeout=WAIT))
    assert [reply.index for reply in replies] == list(range(50))
