"""Images and what may happen to their owners: death, closing, exhaustion, fork, change."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import time
from concurrent import futures

import grpc
import pytest
import zerohop
from apiharness import WAIT, code_and_details, eventually
from faultharness import balance, holdings
from generatedharness import GENERATED
from test_image_mixing import serve

MIB = 1 << 20
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# A server that keeps what it is asked to, and makes replies of its own.
KEEPER = """
kept = []

class Keeper(Servicer):
    def Unary(self, request, context):
        if request.text == "keep":
            kept.append(request)
            return EchoReply(index=len(kept))
        if request.text == "view":
            kept.append(request.payload)
            return EchoReply(index=len(kept))
        return EchoReply(text=request.text, payload=bytes([request.code]) * request.count)

    def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(index=index, payload=bytes([index % 256]) * request.code)

Servicer = Keeper
server = serve()

def sums():
    views = [getattr(one, "payload", one) for one in kept]
    return [[len(view), sorted(set(view[::997]))] for view in views]
"""


def pattern(number, size):
    return bytes([number % 256]) * size


def nothing_lent():
    eventually(lambda: balance() == 0)
    assert zerohop.loans() == []


@pytest.fixture
def types(own):
    return own._zhtest_types


# --- death ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 3000, 100_000, MIB])
def test_a_killed_servers_replies_stay(own, types, home, launch, size):
    """Replies and views that a client holds when the server is killed, and after it has closed."""
    server = launch(KEEPER, **GENERATED)
    channel = home.channel()
    stub = own.EchoStub(channel)
    replies = [
        stub.Unary(types.EchoRequest(code=number, count=size), timeout=WAIT) for number in range(9)
    ]
    views = [replies.pop().payload for _ in range(3)]
    stream = stub.ServerStream(types.EchoRequest(code=size, count=1_000_000), timeout=WAIT)
    streamed = [next(stream) for _ in range(3)]
    open_call = stub.Unary.future(types.EchoRequest(text="keep", payload=bytes(size)))
    server.kill()
    assert code_and_details(lambda: list(stream))[0] is grpc.StatusCode.UNAVAILABLE
    open_call.exception(timeout=WAIT)

    def right():
        for number, reply in enumerate(replies):
            assert reply.payload == pattern(number, size)
            assert types.EchoReply.FromString(reply.SerializeToString()) == reply
        for number, view in zip((8, 7, 6), views, strict=True):
            assert view == pattern(number, size)
        for number, reply in enumerate(streamed):
            assert reply.payload == pattern(number, size)

    right()
    nothing_lent()
    channel.close()
    right()
    replies.clear(), views.clear(), streamed.clear()
    eventually(lambda: holdings()["links"] == 0)


CLIENT = """
stub = stub_of()

def fire(number, size):
    return stub.Unary(EchoRequest(text=str(number), payload=bytes([number % 256]) * size)).text

def flood(size):
    def run():
        number = 0
        while True:
            number += 1
            fire(number, size)
    for _ in range(4):
        threading.Thread(target=run, daemon=True).start()
"""


@pytest.mark.parametrize("size", [3000, 100_000])
def test_killed_clients_requests_stay(own, types, home, launch, size):
    """Requests that handlers keep, of clients that are killed in the middle of it all."""
    kept = {}

    class Servicer(own.EchoServicer):
        def Unary(self, request, context):
            number = int(request.text)
            kept[context.peer(), number] = request if number % 2 else request.payload
            return types.EchoReply(text=request.text, payload=request.payload)

    server = home.server()
    own.add_EchoServicer_to_server(Servicer(), server)
    server.add_insecure_port(home.address())
    server.start()
    clients = [launch(CLIENT, **GENERATED) for _ in range(2)]
    for client in clients:
        client.ask(f"flood({size})")
    eventually(lambda: len(kept) > 60)
    for client in clients:
        client.kill()
    eventually(lambda: balance() == 0)
    assert server.stop(0).wait(WAIT)
    assert len(kept) > 60
    for (_, number), one in kept.items():
        assert getattr(one, "payload", one) == pattern(number, size)
        if number % 2:
            assert one.text == str(number)
    del one
    kept.clear()
    nothing_lent()
    eventually(lambda: holdings()["links"] == 0)


# --- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("touched", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("size", [3000, 100_000, 5 * MIB])
def test_replies_stay_after_close(own, types, home, launch, size, touched):
    """The server lives on and uses its memory: not what a closed channel's replies lie in."""
    server = launch(KEEPER, **GENERATED)
    with home.module.insecure_channel(home.address()) as channel:
        stub = own.EchoStub(channel)
        replies = [
            stub.Unary(types.EchoRequest(code=number, count=size), timeout=WAIT)
            for number in range(5)
        ]
        if touched:
            assert [len(reply.payload) for reply in replies] == [size] * 5
    other = own.EchoStub(home.channel())
    for _ in range(50):
        assert (
            len(other.Unary(types.EchoRequest(code=99, count=size), timeout=WAIT).payload) == size
        )
    for number, reply in enumerate(replies):
        assert reply.payload == pattern(number, size)
    assert server.ask("balance()") >= 5
    view = replies[2].payload
    del replies, reply
    assert view == pattern(2, size)
    del view
    eventually(lambda: server.ask("balance()") == 0)


def test_requests_stay_after_stop(own, types, home, launch):
    """The other way round: a server that stops, whose handlers have kept what they got."""
    server = launch(KEEPER, **GENERATED)
    stub = own.EchoStub(home.channel())
    for number in range(8):
        kind = "keep" if number % 2 else "view"
        stub.Unary(types.EchoRequest(text=kind, payload=pattern(number, 50_000)), timeout=WAIT)
    server.ask("server.stop(0).wait(10)")
    second = serve(home, own, "second")
    again = own.EchoStub(home.channel(home.address("second")))
    for _ in range(50):
        again.Unary(types.EchoRequest(payload=pattern(99, 50_000)), timeout=WAIT)
    assert server.ask("sums()") == [[50_000, [number]] for number in range(8)]
    second.stop(0)
    server.ask("kept.clear()")
    nothing_lent()


# --- exhaustion ----------------------------------------------------------------------------------


def test_a_server_that_keeps_requests(own, types, home, launch):
    """Whose requests are kept gets RESOURCE_EXHAUSTED at its deadline; nobody else does."""
    server = launch(KEEPER, ZEROHOP_ARENA_LIMIT=str(64 * MIB), **GENERATED)
    victim = launch(
        "stub = stub_of()\n"
        "def keep(size, timeout):\n"
        "    try: return stub.Unary(EchoRequest(text='keep', payload=bytes(size)),"
        " timeout=timeout).index\n"
        "    except grpc.RpcError as error: return error.code().name\n",
        ZEROHOP_ARENA_LIMIT=str(16 * MIB),
        **GENERATED,
    )
    stub = own.EchoStub(home.channel())
    count = 0
    while True:
        answer = victim.ask("keep(500_000, 0.5)")
        if not isinstance(answer, int):
            break
        count = answer
    assert answer == "RESOURCE_EXHAUSTED"
    assert 4 <= count <= 9  # a quarter of its arena
    for _ in range(20):  # others go on, and so does what needs no loan
        reply = stub.Unary(types.EchoRequest(code=1, count=500_000), timeout=WAIT)
        assert len(reply.payload) == 500_000
    assert victim.ask("keep(100, 5)") == count + 1
    assert victim.ask("keep(500_000, 0.3)") == "RESOURCE_EXHAUSTED"
    server.ask("kept.clear()")
    for _ in range(5):
        assert victim.ask("keep(500_000, 10)") >= 1
        server.ask("kept.clear()")
    del reply
    for child in server, victim:
        eventually(lambda child=child: child.ask("balance()") == 0)


def test_as_many_kept_as_there_are_loans(own, types, home, launch):
    """All entries of a link's ledger are lent: further loans wait, and come when one is back."""
    server = launch(KEEPER, **GENERATED)
    stub = own.EchoStub(home.channel())
    request = types.EchoRequest(text="keep", payload=bytes(5000))
    for number in range(1024):
        assert stub.Unary(request, timeout=WAIT).index == number + 1
    assert code_and_details(lambda: stub.Unary(request, timeout=0.3))[0] is EXHAUSTED
    assert stub.Unary(types.EchoRequest(text="small"), timeout=WAIT).text == "small"
    waiting = [stub.Unary.future(request, timeout=WAIT) for _ in range(20)]
    time.sleep(0.1)
    server.ask("kept.clear()")
    assert all(call.result(timeout=WAIT).index > 0 for call in waiting)
    server.ask("kept.clear()")
    nothing_lent()


FULL = """
def until_full(size):
    # Messages of this process alone, until there is no memory for more.
    made = []
    try:
        while True:
            made.append(EchoRequest(payload=bytes(size)))
            if len(made) > 10000: return "never"
    except zerohop.ArenaFull as error:
        message = made[-1]
        before = message.SerializeToString()
        try:
            message.text = "x" * size
        except MemoryError:
            pass
        else:
            return "no error"
        return [len(made), isinstance(error, MemoryError),
                message.SerializeToString() == before]

stub = stub_of()
"""


def test_a_full_arena_while_building(own, types, home, launch):
    server = serve(home, own)
    child = launch(FULL, ZEROHOP_ARENA_LIMIT=str(8 * MIB), **GENERATED)
    for size, least, most in (5000, 900, 1100), (100_000, 70, 90), (3 * MIB, 1, 3):
        count, is_memory_error, unchanged = child.ask(f"until_full({size})")
        assert least <= count <= most
        assert is_memory_error
        assert unchanged
    assert child.ask("len(stub.Unary(EchoRequest(payload=bytes(500_000))).payload)") == 500_000
    eventually(lambda: child.ask("balance()") == 0)
    server.stop(0)


def test_ten_thousand_replies_without_memory(own, types, home, launch):
    """A handler's ArenaFull, and a reply that finds no loan, end their calls; all is balanced."""
    server = launch(KEEPER, ZEROHOP_ARENA_LIMIT=str(8 * MIB), **GENERATED)
    stub = own.EchoStub(home.channel())
    held = [
        stub.Unary(types.EchoRequest(code=number, count=400_000), timeout=WAIT)
        for number in range(5)
    ]
    large = types.EchoRequest(code=1, count=400_000)
    codes = set()
    for round_ in range(10_000):
        code, _ = code_and_details(lambda: stub.Unary(large, timeout=WAIT))
        codes.add(code)
        if round_ % 1000 == 0:
            assert stub.Unary(types.EchoRequest(text="small"), timeout=WAIT).text == "small"
    assert codes == {EXHAUSTED}
    code, _details = code_and_details(
        lambda: stub.Unary(types.EchoRequest(code=1, count=9 * MIB), timeout=WAIT)
    )
    assert code is EXHAUSTED
    for number, reply in enumerate(held):
        assert reply.payload == pattern(number, 400_000)
    assert server.ask("balance()") == len(held)
    held.clear()
    del reply
    eventually(lambda: server.ask("balance()") == 0)
    assert len(stub.Unary(large, timeout=WAIT).payload) == 400_000
    eventually(lambda: server.ask("balance()") == 0)


# --- fork ----------------------------------------------------------------------------------------


def in_child(check):
    """What a forked child says of it: "" is good."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "died"
        try:
            said = check() or ""
        except BaseException as error:
            said = repr(error)
        os.write(write, said.encode()[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"
    return said


def test_fork_with_messages_alive(own, types, home, launch):
    server = launch(KEEPER, **GENERATED)
    channel = home.channel()
    stub = own.EchoStub(channel)
    replies = [
        stub.Unary(types.EchoRequest(text="t" * 2000, code=7, count=size), timeout=WAIT)
        for size in (10, 3000, 100_000)
    ]
    views = [reply.payload for reply in replies]
    built = types.EchoRequest(text="b" * 3000, payload=bytes(9000))
    sending = stub.Unary.future(types.EchoRequest(text="keep", payload=bytes(9000)))

    def check():
        for view in views:
            assert set(bytes(view)) <= {0, 7}, "what is that?"
        for message in (*replies, built):
            for use in (
                lambda m: bytes(m.payload),
                lambda m: m.text,
                lambda m: m.SerializeToString(),
                lambda m: m == m,
                lambda m: type(m)().CopyFrom(m),
                repr,
                lambda m: stub.Unary(built, timeout=1),
            ):
                with contextlib.suppress(
                    RuntimeError, zerohop.DecodeError, ValueError, grpc.RpcError
                ):
                    use(message)
        made = [types.EchoRequest(text="c" * 2000, payload=bytes([n]) * 5000) for n in range(50)]
        views.clear(), replies.clear()
        for number, message in enumerate(made):
            assert message.text == "c" * 2000
            assert message.payload == bytes([number]) * 5000

    for _ in range(3):
        assert in_child(check) == ""
    assert sending.result(timeout=WAIT).index == 1
    for reply, view, size in zip(replies, views, (10, 3000, 100_000), strict=True):
        assert view == reply.payload == pattern(7, size)
        assert reply.text == "t" * 2000
    assert built.text == "b" * 3000
    assert stub.Unary(types.EchoRequest(code=3, count=9000), timeout=WAIT).payload == pattern(
        3, 9000
    )
    server.ask("kept.clear()")
    del sending
    nothing_lent()


def test_fork_with_a_stalled_snapshot(own, types, home, launch):
    """A child that drops what its parent was about to send frees nothing of its own."""
    server = launch(KEEPER, **GENERATED)
    stub = own.EchoStub(home.channel())
    stub.Unary(types.EchoRequest(), timeout=WAIT)
    server.stop()
    waiting = [
        stub.Unary.future(types.EchoRequest(text="keep", payload=pattern(n, 9000)))
        for n in range(600)  # more than may be open at once
    ]
    expected = len(waiting)

    def check():
        made = [types.EchoRequest(payload=pattern(n, 9000)) for n in range(50)]
        waiting.clear()
        for _ in range(50):
            types.EchoRequest(payload=pattern(200, 9000))
        more = [types.EchoRequest(payload=pattern(100, 9000)) for n in range(50)]
        for number, message in enumerate(made):
            assert message.payload == pattern(number, 9000)
        assert len(more) == 50

    assert in_child(check) == ""
    server.resume()
    while waiting:
        assert waiting.pop().result(timeout=WAIT).index <= expected
    server.ask("kept.clear()")
    nothing_lent()


# --- change --------------------------------------------------------------------------------------


def test_changed_after_sending(own, types, home, launch):
    """What arrives is what was sent, whatever becomes of the message meanwhile."""
    server = launch(KEEPER, **GENERATED)
    stub = own.EchoStub(home.channel())
    stub.Unary(types.EchoRequest(), timeout=WAIT)
    server.stop()  # so that all is still lent while it is changed
    for size in 10, 2000, 5000, 300_000:
        message = types.EchoRequest(text="keep")
        for number in range(6):
            message.payload = pattern(number, size)
            call = stub.Unary.future(message)
            message.payload = pattern(77, size)
            message.text = "w" * (number * 700)
            message.text = "keep"
            message.count = number
            server.resume()
            call.result(timeout=WAIT)
            server.stop()
    server.resume()
    expected = [[size, [number]] for size in (10, 2000, 5000, 300_000) for number in range(6)]
    assert server.ask("sums()") == expected
    server.ask("kept.clear()")
    del message, call
    nothing_lent()


def test_one_message_on_many_links(own, types, home, launch):
    """Threads send one message on several links while another changes others like it."""
    servers = [serve(home, own, f"s{number}") for number in range(4)]
    stubs = [own.EchoStub(home.channel(home.address(f"s{number}"))) for number in range(4)]
    text, payload = "t" * 3000, pattern(5, 70_000)
    requests = [types.EchoRequest(text=text, payload=payload, count=3)]

    def work(stub):
        for _ in range(50):
            reply = stub.Unary(requests[0], timeout=WAIT)
            assert reply.text == text
            assert reply.payload == payload
            assert len(list(stub.ServerStream(requests[0], timeout=WAIT))) == 3
        return True

    with futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, stubs * 2))
    requests.clear()
    for server in servers:
        server.stop(0)
    nothing_lent()


ECHO = """
class Echo(Servicer):
    def ServerStream(self, request, context):
        for index in range(request.count):
            yield EchoReply(text=request.text, payload=request.payload, index=index)

Servicer = Echo
server = serve()
"""


def test_soak(own, types, home, launch):
    """Random messages, changed after they are sent, between processes that are killed."""
    seconds = float(os.environ.get("ZEROHOP_SOAK_SECONDS", "6"))
    end = time.monotonic() + seconds
    seed = int(os.environ.get("ZEROHOP_SOAK_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    serve(home, own)
    wrong, done = [], [0, 0]

    def check(reply, fill, size, length):
        if reply.payload != pattern(fill, size) or reply.text != chr(97 + fill % 26) * length:
            wrong.append((reply.index, fill, size, length))

    def client(number):
        try:
            go_on(number)
        except BaseException as error:
            wrong.append(repr(error))
            raise

    def go_on(number):
        rng = random.Random(seed + number)
        kept = []
        while time.monotonic() < end and not wrong:
            target = rng.choice([home.address(), home.address("other")])
            channel = home.module.insecure_channel(target)
            stub = own.EchoStub(channel)
            for _ in range(rng.randrange(1, 60)):
                size = rng.choice([0, 10, 900, 1025, 4096, 20_000, 300_000])
                fill, length = rng.randrange(256), rng.choice([0, 10, 2000, 6000])
                message = types.EchoRequest(
                    text=chr(97 + fill % 26) * length, payload=pattern(fill, size), count=2
                )
                try:
                    if rng.random() < 0.5:
                        call = stub.Unary.future(message, timeout=WAIT)
                        message.payload = b"changed" * 1000
                        message.text = "changed"
                        replies = [call.result()]
                    else:
                        replies = stub.ServerStream(message, timeout=WAIT)
                        message.payload = b"changed" * 1000
                        message.text = "changed"
                        replies = list(replies)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        wrong.append(repr(error))
                    done[1] += 1
                    continue
                done[0] += 1
                for reply in replies:
                    kept.append((reply, fill, size, length))
                    if len(kept) > 50:
                        check(*kept.pop(rng.randrange(50)))
            channel.close()
        for one in kept:
            check(*one)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    rng = random.Random(seed)
    while time.monotonic() < end:
        child = launch(ECHO, home.address("other"), **GENERATED)
        time.sleep(rng.uniform(0.2, 1.0))
        child.kill()
    for thread in threads:
        thread.join(WAIT)
    assert wrong == []
    assert done[0] > 20
    print(f"{done[0]} calls, {done[1]} failed")
    gc.collect()  # an error is in a cycle with its traceback, and so with what a client kept
    nothing_lent()
