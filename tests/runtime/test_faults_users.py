"""Peers of other users: refused with an error that names both sides, or admitted by both."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from apiharness import WAIT, eventually
from faultharness import PREAMBLE, SERVER, balance
from zhtest.types_pb2 import EchoRequest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
OTHER = 65534


@pytest.fixture
def open_to_others(home):
    """The way to the test's socket, for everybody."""
    changed = []
    for folder in home._directory, *home._directory.parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o011)
            changed.append((folder, mode))
    yield
    for folder, mode in changed:
        folder.chmod(mode & 0o7777)


def as_other(home, script: str, **env: str) -> str:
    """What a process of another user prints."""
    code = PREAMBLE + SERVER + textwrap.dedent(script)
    # Imports first: the other user may not be able to read them.
    code = code.replace("\naddress =", f"\nos.setgid({OTHER}); os.setuid({OTHER})\naddress =", 1)
    done = subprocess.run(
        [sys.executable, "-c", code, home.address()],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "ZEROHOP_TEST_HARNESS": os.path.dirname(__file__), **env},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


REFUSED = """
try:
    stub_of().Unary(EchoRequest(), timeout=20)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""
CALLS = """
stub = stub_of()
for size in (0, 100, 3000, 1 << 20):
    for _ in range(20):
        assert len(stub.Unary(EchoRequest(payload=bytes(size)), timeout=20).payload) == size
    assert len(list(stub.ServerStream(EchoRequest(count=5, payload=bytes(size))))) == 5
    requests = [EchoRequest(payload=bytes(size))] * 5
    assert [len(r.payload) for r in stub.Bidi(iter(requests), timeout=20)] == [size] * 5
for _ in range(10):
    time.sleep(0.02)  # both sides sleep: a doorbell each way
    assert stub.Unary(EchoRequest(text="x"), timeout=20).text == "x"
assert balance() == 0
print("done")
"""


def test_another_user_is_refused_by_the_client(home, open_to_others):
    """The server admits others, the client does not go to servers of others."""
    home.start(options=[("zerohop.allow_uids", [OTHER])])
    said = as_other(home, REFUSED)
    assert said.startswith("UNAVAILABLE")
    for words in ("uid 0", f"uid {OTHER}", "ZEROHOP_ALLOW_UIDS", "zerohop.allow_uids"):
        assert words in said


def test_another_user_is_refused_by_the_server(home, open_to_others):
    """A socket that some others may use, and one who is not among them."""
    home.start(options=[("zerohop.allow_uids", [12345])])
    said = as_other(home, REFUSED, ZEROHOP_ALLOW_UIDS="0")
    assert said.startswith("UNAVAILABLE")
    for words in ("refused", "uid 0", f"uid {OTHER}", f"pid {os.getpid()}", "ZEROHOP_ALLOW_UIDS"):
        assert words in said


def test_a_socket_that_is_for_its_own_user(home, open_to_others):
    home.start()
    said = as_other(home, REFUSED, ZEROHOP_ALLOW_UIDS="0")
    assert said.startswith("UNAVAILABLE")
    assert "Permission denied" in said


@pytest.mark.parametrize("way", ["option", "environment"])
def test_another_user_who_is_admitted(home, open_to_others, monkeypatch, way):
    """Calls of all kinds and sizes; the doorbells are datagrams on the socket."""
    if way == "option":
        peer = home.serve(options=[("zerohop.allow_uids", [OTHER])])
        script = CALLS.replace("stub_of()", 'stub_of(options=[("zerohop.allow_uids", [0])])')
        assert as_other(home, script) == "done\n"
    else:
        monkeypatch.setenv("ZEROHOP_ALLOW_UIDS", f"{OTHER},4242")
        peer = home.serve()
        assert as_other(home, CALLS, ZEROHOP_ALLOW_UIDS="0") == "done\n"
    assert peer.stub.Unary(EchoRequest(text="x"), timeout=WAIT).text == "x"
    eventually(lambda: balance() == 0)
