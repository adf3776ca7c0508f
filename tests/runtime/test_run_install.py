"""`zerohop.install()`: what grpc's functions return then, and which channels stay on grpcio."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import apiharness
import grpc
import grpc.aio
import pytest
import zerohop
from grpc._channel import Channel as PlainChannel
from registryharness import *  # noqa: F403 - fixtures
from zerohop import run_policy
from zerohop.address import parse_target
from zerohop.install import install, uninstall
from zerohop.registry import Registry
from zerohop.run_channel import RunChannel
from zerohop.run_server import RunServer
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoRequest

WAIT = apiharness.WAIT


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry of a process that has called install()."""
    monkeypatch.setenv("ZEROHOP_REGISTRY", str(tmp_path / "registry"))
    install()
    yield Registry()
    uninstall()


@pytest.fixture
def serve(installed: Registry) -> Iterator:
    """Starts a server of Echo on an address; returns its port."""
    started = []

    def start(address: str = "127.0.0.1:0", **arguments) -> int:
        server = grpc.server(futures.ThreadPoolExecutor(4), **arguments)
        echo_pb2_grpc.add_EchoServicer_to_server(apiharness.echo_servicer(), server)
        port = server.add_insecure_port(address)
        server.start()
        started.append(server)
        return port

    yield start
    for server in started:
        server.stop(0).wait(WAIT)


@pytest.fixture
def short() -> Iterator:
    """How many calls went over shared memory since the test began, or since it was asked last."""
    last = [zerohop.stats()["calls_started"]]

    def count() -> int:
        now = zerohop.stats()["calls_started"]
        last[0], before = now, last[0]
        return now - before

    return count


def echo(channel, text: str = "x", **arguments) -> str:
    return echo_pb2_grpc.EchoStub(channel).Unary(EchoRequest(text=text), **arguments).text


# --- install and uninstall ------------------------------------------------------------------------


def test_install_and_uninstall() -> None:
    names = [(m, n) for m in (grpc, grpc.aio) for n in ("server", "insecure_channel")]
    before = [getattr(*name) for name in names]
    zerohop.install()
    try:
        ours = [getattr(*name) for name in names]
        assert not set(before) & set(ours)
        install()
        assert [getattr(*name) for name in names] == ours
        assert [f.__name__ for f in ours] == [f.__name__ for f in before]
        assert grpc.insecure_channel.__doc__ == before[1].__doc__
    finally:
        uninstall()
    assert [getattr(*name) for name in names] == before


def test_what_others_have_put_over_ours_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(*_: object) -> None: ...

    original = grpc.server
    install()
    grpc.server = theirs
    uninstall()
    assert grpc.server is theirs
    grpc.server = original


def test_types(installed: Registry) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    assert isinstance(server, grpc.Server)
    assert isinstance(server, RunServer)
    assert server._state.thread_pool is not None  # grpcio's own, for programs that look there
    with grpc.insecure_channel("localhost:1") as channel:
        assert isinstance(channel, grpc.Channel)
        assert isinstance(channel, RunChannel)
    with pytest.raises(AttributeError):
        server.no_such_attribute  # noqa: B018


# --- who stays on grpcio --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grpc.service_config", "{}"),
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.default_authority", "else.where"),
        ("grpc.http_proxy", "http://proxy:1"),
        ("grpc.max_metadata_size", 1 << 20),
        ("grpc.keepalive_time_ms", object()),
        ("zerohop.allow_uids", "nobody"),
    ],
)
def test_options_that_keep_a_channel_on_grpcio(option: str, value: object) -> None:
    why = run_policy.why_grpcio(parse_target("localhost:1"), [(option, value)])
    assert option in why or "nobody" in why


@pytest.mark.parametrize(
    "option",
    [
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
        ("grpc.primary_user_agent", "mine"),
        ("SingleThreadedUnaryStream", 1),
        ("a.programs.own", "x"),
        ("zerohop.allow_uids", "1,2"),
    ],
)
def test_options_that_do_not(option: tuple[str, object]) -> None:
    assert run_policy.why_grpcio(parse_target("localhost:1"), [option]) == ""


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("localhost:1", False),
        ("ipv4:127.0.0.1:1", False),
        ("unix:/tmp/x", False),
        ("dns://8.8.8.8/host:1", True),
        ("xds:///service", True),
        ("127.0.0.1:99999", True),
    ],
)
def test_targets(installed: Registry, target: str, stays: bool) -> None:
    with grpc.insecure_channel(target) as channel:
        assert type(channel) is (PlainChannel if stays else RunChannel)


@pytest.mark.parametrize(
    ("environment", "target", "stays"),
    [
        ({"http_proxy": "http://p:1"}, "host:1", True),
        ({"grpc_proxy": "http://p:1"}, "127.0.0.1:1", True),
        ({"http_proxy": "http://p:1", "no_proxy": "localhost,127.0.0.1"}, "localhost:1", False),
        ({"http_proxy": "http://p:1", "no_proxy": "127.0.0.0/8"}, "127.0.0.1:1", False),
        ({"http_proxy": "http://p:1", "no_proxy": "example"}, "a.example:1", False),
        ({"http_proxy": "http://p:1", "no_grpc_proxy": "b", "no_proxy": "host"}, "host:1", True),
        ({"http_proxy": "http://p:1"}, "unix:/tmp/x", False),
    ],
)
def test_proxies(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], target: str, stays: bool
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert bool(run_policy.why_grpcio(parse_target(target), ())) is stays
    off = [("grpc.enable_http_proxy", 0)]
    assert run_policy.why_grpcio(parse_target(target), off) == ""


def test_a_secure_port_is_not_published(installed: Registry) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    server.start()
    assert installed.entries() == []
    insecure = server.add_insecure_port("127.0.0.1:0")
    assert insecure > 0
    server.stop(None)


def test_xds_servers_are_grpcios(installed: Registry) -> None:
    assert not isinstance(grpc.server(futures.ThreadPoolExecutor(1), xds=True), RunServer)


def test_native_targets_are_ours(installed: Registry, tmp_path: Path, short) -> None:
    server = zerohop.server()
    echo_pb2_grpc.add_EchoServicer_to_server(apiharness.echo_servicer(), server)
    server.add_insecure_port(f"shm:{tmp_path}/s")
    server.start()
    with grpc.insecure_channel(f"shm:{tmp_path}/s") as channel:
        assert echo(channel) == "x"
    assert short() == 1
    server.stop(None)


# --- servers --------------------------------------------------------------------------------------


def test_the_entry(installed: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZEROHOP_ADVERTISE", "svc.example:80, svc.example:81")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"unix:{tmp_path}/s")
    assert installed.entries() == []
    server.start()
    (entry,) = installed.entries()
    assert entry.addresses == (f"127.0.0.1:{port}", f"unix:{tmp_path}/s")
    assert entry.advertise == ("svc.example:80", "svc.example:81")
    assert os.path.exists(entry.socket_path)
    server.stop(None)
    assert installed.entries() == []
    assert not os.path.exists(entry.socket_path)


def test_an_advertised_port_is_one_servers(serve, installed: Registry, monkeypatch) -> None:
    first = serve()
    monkeypatch.setenv("ZEROHOP_ADVERTISE", f"svc.example:{first},svc.example:1")
    serve()
    assert installed.entries()[-1].advertise == ("svc.example:1",)


def test_a_server_that_is_dropped_stops(installed: Registry) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert len(installed.entries()) == 1
    del server
    assert installed.entries() == []


def test_no_registry_costs_the_short_way_only(
    installed: Registry, serve, short, tmp_path: Path, monkeypatch, caplog
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZEROHOP_REGISTRY", str(tmp_path / "file"))
    port = serve()
    assert "no short way to it" in caplog.text
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel) == "x"
    assert short() == 0


@pytest.mark.parametrize("way", ["short", "plain"])
def test_grpcios_limits_hold(serve, short, way: str) -> None:
    options = [("grpc.lb_policy_name", "pick_first")] if way == "plain" else []
    port = serve()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        big = EchoRequest(payload=bytes((4 << 20) + 1))
        code, details = apiharness.code_and_details(lambda: stub.Unary(big))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "eceived message larger than max" in details
        assert "vs. 4194304)" in details
    assert short() == (way == "short")
    with grpc.insecure_channel(
        f"127.0.0.1:{serve(options=[('grpc.max_receive_message_length', -1)])}",
        [*options, ("grpc.max_receive_message_length", 8 << 20)],
    ) as channel:
        assert len(echo_pb2_grpc.EchoStub(channel).Unary(big).payload) == (4 << 20) + 1


def test_the_user_agent_is_still_grpcios(installed: Registry, short) -> None:
    agents = []

    class Servicer(echo_pb2_grpc.EchoServicer):
        def Unary(self, request, context):
            agents.append(dict(context.invocation_metadata())["user-agent"])
            return apiharness.echo_reply(request)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    echo_pb2_grpc.add_EchoServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    with grpc.insecure_channel(
        f"localhost:{port}", [("grpc.primary_user_agent", "mine")]
    ) as channel:
        echo(channel)
    assert short() == 1
    assert agents == [f"mine grpc-python/{grpc.__version__} zerohop/{zerohop.__version__}"]
    server.stop(None)


# --- channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0", "[::]"])
@pytest.mark.parametrize("target", ["127.0.0.1", "localhost"])
def test_addresses_that_meet(serve, short, address: str, target: str) -> None:
    port = serve(f"{address}:0")
    with grpc.insecure_channel(f"{target}:{port}") as channel:
        assert [echo(channel, str(n)) for n in range(3)] == ["0", "1", "2"]
    assert short() == 3


def test_a_unix_socket(serve, short, tmp_path: Path) -> None:
    serve(f"unix:{tmp_path}/s")
    with grpc.insecure_channel(f"unix:{tmp_path}/s") as channel:
        assert echo(channel) == "x"
    assert short() == 1


def test_states(serve) -> None:
    seen = []
    channel = grpc.insecure_channel(f"127.0.0.1:{serve()}")
    channel.subscribe(seen.append, try_to_connect=True)
    grpc.channel_ready_future(channel).result(WAIT)
    apiharness.eventually(lambda: grpc.ChannelConnectivity.READY in seen)
    assert seen[0] is grpc.ChannelConnectivity.IDLE
    channel.close()
    with pytest.raises(ValueError, match="closed channel"):
        echo(channel)
    with pytest.raises(ValueError, match="closed channel"):
        echo_pb2_grpc.EchoStub(channel).ServerStream(EchoRequest())


def test_states_over_grpcio(installed: Registry, short) -> None:
    uninstall()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    echo_pb2_grpc.add_EchoServicer_to_server(apiharness.echo_servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    install()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    grpc.channel_ready_future(channel).result(WAIT)
    assert echo(channel) == "x"
    seen = []
    channel.subscribe(seen.append)
    apiharness.eventually(lambda: seen and seen[-1] is grpc.ChannelConnectivity.READY)
    server.stop(None)
    apiharness.eventually(lambda: seen[-1] is not grpc.ChannelConnectivity.READY)
    channel.close()
    assert short() == 0


def test_nobody_is_ready(installed: Registry) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        channel = grpc.insecure_channel(f"127.0.0.1:{unused.getsockname()[1]}")
        with channel, pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(0.3)


def test_an_entry_of_another_user_is_not_believed(serve, short, monkeypatch) -> None:
    """Its socket is not served by the user who owns the entry."""
    from zerohop.links import AddressRoute

    port = serve()
    monkeypatch.setattr(AddressRoute, "owner", lambda self, path: os.geteuid() + 1)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel) == "x"
    assert short() == 0


def test_the_resolver_is_not_asked_while_there_is_no_server(
    installed: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: asked.append(a) or [])
    channel = grpc.insecure_channel("no.such.host.example:1")
    with channel, pytest.raises(grpc.RpcError):
        echo(channel, timeout=0.5)
    assert asked == []


def test_a_slow_resolver_holds_up_the_first_calls_only(serve, monkeypatch) -> None:
    import threading
    import time

    serve()
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: release.wait(WAIT) and [])
    with grpc.insecure_channel("no.such.host.invalid:1") as channel:
        stub = echo_pb2_grpc.EchoStub(channel)
        begun = time.monotonic()
        for _ in range(20):  # each waits a quarter of its time-out at most
            with pytest.raises(grpc.RpcError):
                stub.Unary(EchoRequest(), timeout=0.02)
        assert time.monotonic() - begun < 5
        release.set()
