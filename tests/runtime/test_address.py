"""Target and address syntax, with grpcio as the oracle."""

import contextlib
import os
import socket
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from zerohop import address
from zerohop.address import (
    Target,
    advertised_address,
    bound_address,
    candidates,
    canonical_address,
    format_address,
    is_local,
    is_loopback,
    is_wildcard,
    listening_addresses,
    local_addresses,
    normalize_ip,
    parse_target,
    resolve_candidates,
    split_address,
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("localhost:50051", ("localhost", 50051)),
        ("localhost", ("localhost", 443)),
        ("localhost:", ("localhost", 443)),
        ("localhost:http", ("localhost", 80)),
        ("a_b.c-d.example.:1", ("a_b.c-d.example.", 1)),
        ("local%68ost:1", ("localhost", 1)),
        ("dns:localhost:1", ("localhost", 1)),
        ("dns:/localhost:1", ("localhost", 1)),
        ("dns:///localhost:1", ("localhost", 1)),
        ("DNS:///localhost:1", ("localhost", 1)),
        ("dns:///localhost:1?a=b#c", ("localhost", 1)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:1", ("::1", 1)),
        ("[::1]", ("::1", 443)),
        ("::1", ("::1", 443)),
        ("dns:///[::1]:1", ("::1", 1)),
    ],
)
def test_names_and_addresses(target, expected) -> None:
    parsed = parse_target(target)
    assert parsed.kind == "dns"
    assert (parsed.host, parsed.port) == expected
    assert parsed.needs_lookup == (normalize_ip(expected[0]) is None)
    assert not parsed.native


@pytest.mark.parametrize(
    ("target", "kind", "addresses"),
    [
        ("ipv4:127.0.0.1:1", "ipv4", (("127.0.0.1", 1),)),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", "ipv4", (("127.0.0.1", 1), ("10.0.0.1", 2))),
        ("ipv4:///127.0.0.1:1", "ipv4", (("127.0.0.1", 1),)),
        ("ipv6:[::1]:1", "ipv6", (("::1", 1),)),
        ("ipv6:%5B::1%5D:1", "ipv6", (("::1", 1),)),
        ("ipv6:[::ffff:10.0.0.1]:1", "ipv6", (("10.0.0.1", 1),)),
        ("ipv6:[fe80::1%25eth0]:1", "ipv6", (("fe80::1", 1),)),
        ("dns:///127.0.0.1:1", "dns", (("127.0.0.1", 1),)),
        ("dns://8.8.8.8/127.0.0.1:1", "dns", (("127.0.0.1", 1),)),
    ],
)
def test_addresses_that_need_no_lookup(target, kind, addresses) -> None:
    parsed = parse_target(target)
    assert (parsed.kind, parsed.addresses) == (kind, addresses)
    assert resolve_candidates(target) == list(addresses)


@pytest.mark.parametrize(
    ("target", "kind", "path"),
    [
        ("unix:/a/b", "unix", "/a/b"),
        ("unix:///a/b", "unix", "/a/b"),
        ("unix:a", "unix", "a"),
        ("unix:/a%20b", "unix", "/a b"),
        ("unix:/a b%zz", "unix", "/a b%zz"),
        ("unix:/a?b", "unix", "/a"),
        ("unix:50051", "unix", "50051"),
        ("unix-abstract:a/b", "unix-abstract", "a/b"),
        ("shm:/a/b", "shm", "/a/b"),
        ("shm:///a/b", "shm", "/a/b"),
        ("SHM:/a/../b", "shm", "/b"),
        ("shm:a", "shm", os.path.abspath("a")),
    ],
)
def test_paths(target, kind, path) -> None:
    parsed = parse_target(target)
    assert (parsed.kind, parsed.path) == (kind, path)
    assert parsed.native == (kind == "shm")
    assert resolve_candidates(parsed) == []


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("zerohop:///name", "name"),
        ("zerohop:name", "name"),
        ("zerohop:/pkg.Service", "pkg.Service"),
        ("zerohop:///a%20b/c", "a b/c"),
    ],
)
def test_service_names(target, name) -> None:
    assert parse_target(target) == Target(target, "zerohop", name=name)
    assert parse_target(target).native


@pytest.mark.parametrize(
    "target",
    [
        *("shm:", "shm://host/path", "shm:////a", "shm:/\0", "zerohop:", "zerohop:///"),
        *("zerohop://name", "zerohop:///a%0Ab", "zerohop:/// a", "zerohop:///" + "a" * 256),
    ],
)
def test_malformed_targets_of_our_own_are_errors(target) -> None:
    with pytest.raises(ValueError, match=r"^target "):
        parse_target(target)


@pytest.mark.parametrize(
    "target",
    [
        *("", ":1", "localhost:0", "localhost:65536", "localhost:1/foo", " localhost:1", "h\0:1"),
        *("[::1", "[a]:1", "[::1]x:1", "127.1:1", "a.0x7f:1", "2130706433:1"),
        *("ipv4:127.0.0.1", "ipv4:localhost:1", "ipv4:[::1]:1", "ipv4://a/1.2.3.4:1"),
        *("ipv6:127.0.0.1:1", "unix:", "unix://a/b", "unix:/a,/b", "dns://localhost:1"),
        *("xds:///a", "vsock:1:2", "passthrough:///127.0.0.1:1"),
    ],
)
def test_the_rest_is_left_to_grpcio(target) -> None:
    parsed = parse_target(target)
    assert parsed.kind == "other"
    assert candidates(parsed) == []


@given(st.text(max_size=60))
@example("ipv6:[::1%]:1")
@example("[%00]:1")
@example("zerohop:///\ud800")
def test_every_text_is_parsed_or_refused(text) -> None:
    for scheme in ("", "dns:///", "ipv4:", "ipv6:", "unix:", "shm:", "zerohop:///"):
        with contextlib.suppress(ValueError):
            parsed = parse_target(scheme + text)
            assert parsed.text == scheme + text
            assert all(0 < port < 65536 and normalize_ip(ip) == ip for ip, port in parsed.addresses)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_spellings_of_an_address_have_one_canonical_form(ip, port) -> None:
    text = f"[{ip.exploded}]:{port}" if ip.version == 6 else f"{ip}:{port}"
    canonical = canonical_address(text)
    assert canonical_address(canonical) == canonical
    assert listening_addresses(text) == [canonical]
    host, number = split_address(canonical)
    assert (normalize_ip(str(ip)), port) == (host, number)
    assert resolve_candidates(text) == [(host, number)]
    assert format_address(host, number) == canonical


@given(st.text(max_size=40))
@example("unix:/" + "/" * 3)
@example("unix:a/../b")
def test_a_canonical_address_is_its_own(text) -> None:
    for prefix in ("", "unix:", "unix-abstract:"):
        with contextlib.suppress(ValueError):
            canonical = canonical_address(prefix + text)
            assert canonical_address(canonical) == canonical


def test_what_a_server_listens_on(monkeypatch) -> None:
    monkeypatch.chdir("/")
    assert listening_addresses("unix:tmp/a%41?") == ["unix:/tmp/aA?"]
    assert set(listening_addresses("LocalHost:1")) == {"127.0.0.1:1", "[::1]:1"}
    assert bound_address("[::]:0", 7) == "[::]:7"
    assert bound_address("127.0.0.1", 443) == "127.0.0.1:443"
    assert bound_address("localhost:0", 7) == "localhost:7"
    assert bound_address("unix:/a", 1) == "unix:/a"
    for text in ("", "localhost", "localhost:0", "unix:", "unix:/a\0"):
        with pytest.raises(ValueError, match="expected"):
            listening_addresses(text)


def test_what_can_be_advertised() -> None:
    assert advertised_address("Svc.example.:80") == "svc.example:80"
    assert advertised_address("10.0.0.1:80") == "10.0.0.1:80"
    for text in ("127.0.0.1:1", "[::1]:1", "0.0.0.0:1", "[::]:1", "localhost:1", "a.localhost:1"):
        with pytest.raises(ValueError, match="cannot advertise"):
            advertised_address(text)
    for text in ("svc", "unix:/a", "svc:0"):
        with pytest.raises(ValueError, match="expected HOST:PORT"):
            advertised_address(text)


def test_kinds_of_addresses() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.255.1.2")
    assert is_loopback("::1")
    assert not is_loopback("128.0.0.1")
    assert is_wildcard("::")
    assert is_wildcard("0.0.0.0")
    assert normalize_ip("::ffff:127.0.0.1") == "127.0.0.1"
    assert normalize_ip("127.1") is None
    assert normalize_ip("0:0::1") == "::1"


def test_local_addresses_are_those_that_can_be_bound() -> None:
    found = local_addresses()
    assert {"127.0.0.1", "::1"} <= found
    for ip in found:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        if ip == "::1" or ip.startswith("fe80"):
            continue  # may be missing; needs a zone
        with socket.socket(family) as probe:
            probe.bind((ip, 0))
    assert not is_local("203.0.113.7")
    assert is_local("0.0.0.0")


def test_local_addresses_follow_changes_and_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    code = """
import subprocess, time
from zerohop import address
def ip(*args): subprocess.run(["ip", *args], check=True)
assert address.local_addresses() == {"127.0.0.1", "::1"}
ip("link", "set", "lo", "up")
ip("addr", "add", "10.77.0.1/24", "dev", "lo")
ip("addr", "add", "fd77::1/64", "dev", "lo", "nodad")
time.sleep(address.LOCAL_TTL)
assert {"10.77.0.1", "fd77::1"} <= address.local_addresses()
assert "10.77.0.255" not in address.local_addresses()
assert "10.77.0.0" not in address.local_addresses()
print("ok")
"""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert done.stdout == "ok\n"


def test_a_name_that_does_not_resolve_has_only_itself() -> None:
    assert candidates("no.such.name.invalid:1") == ["no.such.name.invalid:1"]
    assert candidates("dns://8.8.8.8/localhost:1") == ["localhost:1"]
    assert resolve_candidates("x" * 300 + ":1") == []


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A grpcio server on a dual-stack port and on a unix socket: (port, path)."""
    path = str(tmp_path_factory.mktemp("s") / "a b")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("0.0.0.0:0")
    server.add_insecure_port(f"unix:{path}")
    server.start()
    yield port, path
    server.stop(None)


@pytest.mark.parametrize(
    ("target", "reaches"),
    [
        ("localhost:{port}", True),
        ("dns:localhost:{port}", True),
        ("dns:/localhost:{port}", True),
        ("DNS:///localhost:{port}", True),
        ("dns:///local%68ost:{port}?a#b", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.9:{port}", True),
        ("[::1]:{port}", True),
        ("[::ffff:127.0.0.1]:{port}", True),
        ("0.0.0.0:{port}", True),
        ("[::]:{port}", True),
        ("ipv4:127.0.0.1:{port}", True),
        ("ipv6:[::1]:{port}", True),
        ("ipv4:127.0.0.9:1,127.0.0.1:{port}", True),
        ("unix:{path}", True),
        ("unix://{path}", True),
        ("dns://localhost:{port}", False),
        ("localhost:{port}/a", False),
        ("ipv4:localhost:{port}", False),
        ("ipv4:127.0.0.1", False),
        ("127.1:{port}", False),
        ("unix:/{path}", False),
    ],
)
def test_grpcio_reaches_what_we_say_it_reaches(served, target, reaches) -> None:
    port, path = served
    target = target.format(port=port, path=path)
    with grpc.insecure_channel(target) as channel:
        ready = grpc.channel_ready_future(channel)
        if reaches:
            ready.result(timeout=10)
        else:
            with pytest.raises(grpc.FutureTimeoutError):
                ready.result(timeout=0.3)
        ready.cancel()
    listening = {*address.local_addresses(), "127.0.0.9", "0.0.0.0", "::"}
    ours = [
        one
        for one in candidates(target)
        if one == f"unix:{path}" or (isinstance(one, tuple) and one[0] in listening)
    ]
    assert bool([one for one in ours if isinstance(one, str) or one[1] == port]) == reaches
