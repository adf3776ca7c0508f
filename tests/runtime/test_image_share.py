"""Pictures handed on: by a service in the middle to a third one and further, none of which copies
them, whoever dies meanwhile."""

from __future__ import annotations

import sys

import pytest
import zerohop
from apiharness import WAIT, eventually
from faultharness import balance, holdings
from generatedharness import GENERATED, load
from test_image_calls import address_of, mapping_of

MIB = 1 << 20

# A service that hands on what it gets, in the way that `text` names, to the one at `onward`; the
# last of a row keeps it, or sends it back.
MIDDLE = """
from test_image_calls import address_of, mapping_of
kept = []
onward = None

def pass_on(path):
    global onward
    onward = stub_of(path)

def next_request(request):
    if request.text == "whole":
        return request
    if request.text == "copied":
        made = EchoRequest()
        made.CopyFrom(request)
        return made
    if request.text == "view":
        return EchoRequest(text="view", payload=request.payload[16:])
    return EchoRequest(text=request.text, code=request.code, payload=request.payload)

class Middle(Servicer):
    def Unary(self, request, context):
        if onward is not None:
            reply = onward.Unary(next_request(request), timeout=30)
            return EchoReply(text=reply.text, payload=reply.payload)
        if request.code == 1:
            kept.append(request)
            return EchoReply(text="kept")
        return EchoReply(text="back", payload=request.payload)

Servicer = Middle
server = serve()

def place():
    return mapping_of("self", address_of(kept[-1].payload))

def look():
    return [len(kept[-1].payload), sorted(set(kept[-1].payload))]
"""


@pytest.fixture
def types(own):
    return own._zhtest_types


@pytest.fixture
def row(home, launch):
    """Makes a row of services, the first of which is at the default address."""

    def make(length):
        paths = [home.address() if at == 0 else home.address(f"s{at}") for at in range(length)]
        services = [launch(MIDDLE, path, **GENERATED) for path in paths]
        for service, path in zip(services, paths[1:], strict=False):
            service.ask(f"pass_on({path!r})")
        return services

    return make


def copied(service=None):
    counters = zerohop.stats() if service is None else service.ask("zerohop.stats()")
    return counters["bytes_copied"], counters["bytes_built"]


def come_back(*services):
    eventually(lambda: balance() == 0)
    for service in services:
        eventually(lambda service=service: service.ask("balance()") == 0)


@pytest.mark.parametrize("way", ["field", "copied", "whole", "view"])
@pytest.mark.parametrize("length", [2, 4])
def test_nobody_copies(own, types, home, row, length, way):
    """From the first message on; the last one reads the memory of the first."""
    services = row(length)
    stub = own.EchoStub(home.channel())
    payload = zerohop.alloc(MIB)
    memoryview(payload)[:] = b"p" * MIB
    request = types.EchoRequest(text=way, code=1, payload=payload)
    if way == "view":
        request.code = 0
    before = [copied(service) for service in (None, *services)]
    reply = stub.Unary(request, timeout=WAIT)
    after = [copied(service) for service in (None, *services)]
    assert [one[0] for one in before] == [one[0] for one in after]
    assert all(then[1] - now[1] < 100 for now, then in zip(before, after, strict=True))
    if way == "view":  # and back through all of them: it is ours
        assert bytes(reply.payload) == b"p" * (MIB - 16 * (length - 1))
        assert mapping_of("self", address_of(reply.payload))[0] == place_of(request)[0]
        offset = address_of(reply.payload) - address_of(request.payload)
        assert offset == 16 * (length - 1)
    else:
        assert reply.text == "kept"
        assert services[-1].ask("look()") == [MIB, [ord("p")]]
        assert tuple(services[-1].ask("place()")) == place_of(request)
        services[-1].ask("kept.clear()")
    del reply
    come_back(*services)


def place_of(request):
    return mapping_of("self", address_of(request.payload))


def test_back_and_on_again(own, types, home, row, launch):
    """What has come back to its owner goes to somebody else as any memory of his own."""
    services = row(2)
    other = launch(MIDDLE, home.address("other"), **GENERATED)
    first = own.EchoStub(home.channel())
    second = own.EchoStub(home.channel(home.address("other")))
    request = types.EchoRequest(payload=b"p" * MIB)
    reply = first.Unary(request, timeout=WAIT)
    before = [copied(service) for service in (None, other)]
    onward = types.EchoRequest(code=1, payload=reply.payload)
    del request, reply
    second.Unary(onward, timeout=WAIT)
    after = [copied(service) for service in (None, other)]
    assert [one[0] for one in before] == [one[0] for one in after]
    assert other.ask("look()") == [MIB, [ord("p")]]
    assert tuple(other.ask("place()")) == place_of(onward)
    del onward
    other.ask("kept.clear()")
    come_back(*services, other)


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("order", [1, -1])
def test_services_in_the_middle_die(own, types, home, row, length, order):
    """The last one reads on, for as long as it likes; then the first one has its memory back."""
    services = row(length)
    stub = own.EchoStub(home.channel())
    stub.Unary(types.EchoRequest(code=1, payload=b"p" * MIB), timeout=WAIT)
    for service in services[:-1][::order]:
        service.kill()
        for _ in range(8):
            types.EchoRequest(payload=b"!" * MIB)
        assert services[-1].ask("look()") == [MIB, [ord("p")]]
    for _ in range(8):
        types.EchoRequest(payload=b"!" * MIB)
    assert balance() > 0
    assert services[-1].ask("look()") == [MIB, [ord("p")]]
    services[-1].ask("kept.clear()")
    come_back(services[-1])
    eventually(lambda: holdings()["links"] == 0)


def test_the_last_one_dies(own, types, home, row):
    services = row(3)
    stub = own.EchoStub(home.channel())
    stub.Unary(types.EchoRequest(code=1, payload=b"p" * MIB), timeout=WAIT)
    services[-1].kill()
    come_back(*services[:-1])


def test_the_owner_dies(own, types, home, row, launch):
    """What the last one reads of a dead owner stays."""
    services = row(2)
    client = launch("stub = stub_of()", home.address(), **GENERATED)
    client.ask("stub.Unary(EchoRequest(code=1, payload=b'p' * (1 << 20)), timeout=30).text")
    client.kill()
    services[0].kill()
    assert services[-1].ask("look()") == [MIB, [ord("p")]]
    services[-1].ask("kept.clear()")
    come_back(services[-1])


# Lends memory to whoever asks for it; the other one keeps what it gets.
SOURCE = """
class Source(Servicer):
    def Unary(self, request, context):
        return EchoReply(payload=bytes(range(256)) * 4096)

Servicer = Source
server = serve()
"""
KEEPER = """
kept = []

class Keeper(Servicer):
    def Unary(self, request, context):
        kept.append(request)
        return EchoReply(text=str(request.payload[1]))

Servicer = Keeper
server = serve()
"""


@pytest.fixture
def source(own, home, launch):
    launched = launch(SOURCE, home.address("source"), **GENERATED)
    return launched, own.EchoStub(home.channel(home.address("source")))


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_in_the_middle_is_idle(own, types, home, launch, source, closes):
    """It calls nobody any more, but gives back what it is given back."""
    owner, stub = source
    keeper = launch(KEEPER, home.address("keeper"), **GENERATED)
    channel = home.channel(home.address("keeper"))
    reply = stub.Unary(types.EchoRequest(), timeout=WAIT)
    own.EchoStub(channel).Unary(types.EchoRequest(payload=reply.payload), timeout=WAIT)
    del reply
    if closes:
        channel.close()
    assert owner.ask("balance()") == 1
    keeper.ask("kept.clear()")
    eventually(lambda: owner.ask("balance()") == 0)
    eventually(lambda: balance() == 0)


FORKS = """
reply = stub_of(address).Unary(EchoRequest(), timeout=30)
adopted = EchoRequest(payload=reply.payload)

def copied():
    made = EchoRequest()
    made.CopyFrom(adopted)
    return made

def in_child(make):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = "read " + stub_of(sys.argv[1] + ".keeper").Unary(make(), timeout=30).text
        except grpc.RpcError as error:
            said = error.details()
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    said = os.read(ours, 1000).decode()
    os.close(ours)
    os.waitpid(pid, 0)
    return said
"""


@pytest.mark.parametrize("make", ["lambda: adopted", "copied"])
def test_a_child_does_not_hand_on(own, home, launch, source, make):
    """What its parent was lent is not there: not even as the zeros that it reads."""
    address = home.address("source")
    launch(KEEPER, f"{address}.keeper", **GENERATED)
    middle = launch(FORKS, address, **GENERATED)
    assert middle.ask(f"in_child({make})") == "Exception serializing request!"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    text = """
syntax = "proto3";
message Several { bytes one = 1; bytes two = 2; bytes three = 3; }
"""
    return load(tmp_path_factory.mktemp("several"), "several", text).Several


MANY = """
syntax = "proto3";
package very_many;
message Many { repeated bytes blobs = 1; bytes payload = 2; }
service Line { rpc On(Many) returns (Many); }
"""

# Keeps what it gets, and sends it back: as blobs of its own order, and as views of parts of them.
KEEPS_MANY = """
sys.path.insert(0, DIRECTORY)
import very_many_zerohop as many

class Line(many.LineServicer):
    def On(self, request, context):
        kept.append(request)
        blobs = list(request.blobs)
        if request.payload == b"parts":
            blobs = [part for blob in blobs for part in (blob[:4096], blob[4000:])]
        return many.Many(blobs=reversed(blobs))

kept = []
server = zerohop.server()
many.add_LineServicer_to_server(Line(), server)
server.add_insecure_port("shm:" + DIRECTORY + "/many")
server.start()
"""


@pytest.fixture
def many(own, launch, home, tmp_path_factory):
    directory = tmp_path_factory.mktemp("many")
    sys.modules.pop("very_many_zerohop", None)
    module = load(directory, "very_many", MANY)
    service = launch(f"DIRECTORY = {str(directory)!r}\n{KEEPS_MANY}", **GENERATED)
    return module, service, home.channel(f"shm:{directory}/many")


@pytest.mark.parametrize("parts", [False, True])
def test_of_very_many_blobs_none_is_copied(many, parts):
    """There and back, and there again: only what refers to them is written anew."""
    module, service, channel = many
    stub = module.LineStub(channel)
    sizes = [8200 + 3000 * (i % 3) for i in range(600)]
    request = module.Many(blobs=[bytes([i % 251]) * size for i, size in enumerate(sizes)])
    if parts:
        request.payload = b"parts"
    before = copied(), copied(service)
    reply = stub.On(request, timeout=WAIT)
    again = module.Many(blobs=reply.blobs)
    copy = module.Many()
    copy.CopyFrom(again)
    stub.On(reply, timeout=WAIT)
    stub.On(copy, timeout=WAIT)
    after = copied(), copied(service)
    # What refers to them, 16 bytes each, but none of the blobs.
    for (copies, builds), (copies_before, builds_before) in zip(after, before, strict=True):
        assert copies - copies_before < 16 * 1200 * 4 + 65536
        assert builds - builds_before < 16 * 1200 * 4 + 65536
    expected = [bytes(blob) for blob in request.blobs]
    if parts:
        expected = [part for blob in expected for part in (blob[:4096], blob[4000:])]
    assert [bytes(blob) for blob in copy.blobs] == expected[::-1]
    for at in range(0, len(copy.blobs), 7):
        copy.blobs[at] = b""
        expected[-1 - at] = b""
    assert [bytes(blob) for blob in copy.blobs] == expected[::-1]
    del request, reply, again, copy
    service.ask("kept.clear()")
    come_back(service)


VIEWS = [slice(0, 8192), slice(16, 20000), slice(0, 16384), slice(100, 8000), slice(19000, 30000)]


@pytest.mark.parametrize("one", VIEWS)
@pytest.mark.parametrize("two", VIEWS)
def test_views_overlap(types, several, source, one, two):
    """Each is what it was, whatever becomes of the others; the last one to go gives all back."""
    owner, stub = source
    all_of_it = bytes(range(256)) * 4096
    reply = stub.Unary(types.EchoRequest(), timeout=WAIT)
    payload = reply.payload
    for gone in "one", "two", "three":
        message = several(one=payload[one], three=payload[30000:40000])
        message.two = payload[two]
        message.three = payload[4000:40000]
        copy = several()
        copy.CopyFrom(message)
        message.one = payload[two]
        message.one = payload[one]
        setattr(message, gone, b"")
        for made in message, copy:
            for name, view in ("one", one), ("two", two), ("three", slice(4000, 40000)):
                if made is copy or name != gone:
                    assert bytes(getattr(made, name)) == all_of_it[view]
    del reply, payload, copy, made
    for name in "one", "two":
        assert owner.ask("balance()") == 1
        setattr(message, name, b"")
    eventually(lambda: owner.ask("balance()") == 0)
