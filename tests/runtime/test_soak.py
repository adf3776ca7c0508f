"""A soak: client processes call servers in all ways with random sizes, while servers and clients
are killed, stopped and replaced. At the end all that was lent is back and nothing has leaked.

It runs for ZEROHOP_SOAK_SECONDS, six by default; `make soak` takes sixty. ZEROHOP_SOAK_SEED repeats
the choices of a run that has failed.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest
from apiharness import eventually

SECONDS = float(os.environ.get("ZEROHOP_SOAK_SECONDS", "6"))

pytestmark = pytest.mark.timeout(SECONDS + 180)

# Every status that a call may end with here; anything else is a bug.
EXPECTED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}

CLIENT = """
import random
from collections import Counter

MIB = 1 << 20
rng = random.Random(int(os.environ["SEED"]))
stubs = [stub_of(target) for target in sys.argv[1].split(",")]
codes = Counter()
wrong = []
stop = threading.Event()

def size():
    return rng.choice((0, rng.randrange(64), rng.randrange(2000), rng.randrange(20_000),
                       rng.randrange(200_000), rng.randrange(4 * MIB)))

def payload():
    return rng.randbytes(8) * (size() // 8)

def timeout():
    return rng.choice((0.001, 0.01, 0.1, 1, 10, 10))

def unary(stub):
    data = payload()
    if stub.Unary(EchoRequest(payload=data), timeout=timeout()).payload != data:
        wrong.append("unary")

def future(stub):
    data = payload()
    calls = [stub.Unary.future(EchoRequest(payload=data), timeout=timeout()) for _ in range(5)]
    done = threading.Event()
    calls[0].add_done_callback(lambda call: done.set())
    calls[1].cancel()
    if calls[2].result().payload != data:
        wrong.append("future")
    if not done.wait(30):
        wrong.append("callback")

def server_stream(stub):
    data, count = payload(), rng.randrange(20)
    replies = stub.ServerStream(EchoRequest(payload=data, count=count), timeout=timeout())
    seen = 0
    for reply in replies:
        if reply.index != seen or reply.payload != data:
            wrong.append("server stream")
        seen += 1
        if rng.random() < 0.05:
            replies.cancel()
            return
    if seen != count:
        wrong.append("server stream is short")

def client_stream(stub):
    data = [payload() for _ in range(rng.randrange(6))]
    requests = (EchoRequest(payload=one) for one in data)
    if stub.ClientStream(requests, timeout=timeout()).index != sum(map(len, data)):
        wrong.append("client stream")

def bidi(stub):
    data = [payload() for _ in range(rng.randrange(6))]
    calls = stub.Bidi((EchoRequest(payload=one) for one in data), timeout=timeout())
    for expected, reply in zip(data, calls):
        if reply.payload != expected:
            wrong.append("bidi")
        if rng.random() < 0.05:
            return  # dropped half-way

def new_channel(stub):
    index = rng.randrange(len(stubs))
    stubs[index] = stub_of(sys.argv[1].split(",")[index])

def run():
    kinds = [unary, unary, future, server_stream, client_stream, bidi, new_channel]
    while not stop.is_set():
        try:
            rng.choice(kinds)(rng.choice(stubs))
            codes["OK"] += 1
        except grpc.FutureCancelledError:
            codes["CANCELLED"] += 1
        except grpc.RpcError as error:
            codes[error.code().name] += 1
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                time.sleep(0.01)
        except Exception as error:
            wrong.append(repr(error))

threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()

def finish():
    stop.set()
    for thread in threads:
        thread.join(30)
    if any(thread.is_alive() for thread in threads):
        wrong.append("a thread hangs")
    return [dict(codes), wrong[:5]]
"""


def test_soak(home, launch, capsys):
    seed = int(os.environ.get("ZEROHOP_SOAK_SEED", random.randrange(1 << 32)))
    rng = random.Random(seed)
    places = [home.address(str(number)) for number in range(3)]
    arena = {"ZEROHOP_ARENA_LIMIT": str(64 << 20)}

    def start_server(number):
        return launch("server = serve(workers=16)", places[number], **arena)

    def start_client():
        return launch(CLIENT, ",".join(places), SEED=str(rng.randrange(1 << 32)), **arena)

    servers = [start_server(number) for number in range(3)]
    clients = [start_client() for _ in range(3)]
    events = Counter()
    totals: Counter[str] = Counter()
    wrong: list[str] = []

    def collect(client):
        codes, errors = client.ask("finish()")
        totals.update(codes)
        wrong.extend(errors)

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(rng.random() * 0.5)
        event = rng.choice(
            ("kill a server", "kill a client", "stop a server", "stop a client", "end a client")
        )
        events[event] += 1
        number = rng.randrange(3)
        if event == "kill a server" and number > 0:  # the first one lives through it all
            servers[number].kill()
            servers[number] = start_server(number)
        elif event == "kill a client" and number > 0:
            clients[number].kill()
            clients[number] = start_client()
        elif event == "end a client" and number > 0:
            collect(clients[number])
            assert clients[number].end() == (0, "")
            clients[number] = start_client()
        elif event.startswith("stop"):
            process = (servers if event == "stop a server" else clients)[number]
            process.stop()
            time.sleep(rng.random() * 0.3)
            process.resume()

    for client in clients:
        collect(client)
    with capsys.disabled():
        print(f"\nsoak of {SECONDS:g} s, seed {seed}: {dict(events)}\n  {dict(totals)}")
    assert wrong == []
    assert set(totals) <= EXPECTED
    assert totals["OK"] > 20 * SECONDS
    for client in clients:
        eventually(lambda client=client: client.ask("balance()") == 0)
    native = "[server._core.native.open, server._core.native.running]"
    for server in servers:
        eventually(lambda server=server: server.ask(native) == [0, 0])
        eventually(lambda server=server: server.ask("balance()") == 0)
    # The clients end, and of each the first server keeps nothing.
    for client in clients:
        assert client.end() == (0, "")
    for server in servers:
        eventually(lambda server=server: server.ask("holdings()['links']") == 0)
        held = server.ask("holdings()")
        assert held["threads"] < 40, held
        assert held["fds"] < 30, held
        # Both arenas' segments that stay for the next call, and what threads need.
        assert held["rss"] < 400_000, held
