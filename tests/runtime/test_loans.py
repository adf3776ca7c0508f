"""The leak finder: who holds what, from which line."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import zerohop
from apiharness import WAIT, eventually
from faultharness import Child, balance
from zhtest.types_pb2 import EchoRequest

MIB = 1 << 20


def pages(size: int) -> int:
    return -(-size // 4096) * 4096


def test_nothing_is_lent_at_rest(home):
    peer = home.serve()
    peer.stub.Unary(EchoRequest(payload=bytes(MIB)))
    eventually(lambda: balance() == 0)
    assert zerohop.loans() == []


def test_without_tracing_loans_have_no_place(home, launch):
    child = launch("server = serve()")
    stub = home.module.insecure_channel(home.address())
    call = stub.unary_unary("/zhtest.Echo/Unary")
    call(EchoRequest(text="x").SerializeToString(), timeout=WAIT)
    child.stop()
    future = call.future(EchoRequest(payload=bytes(MIB)).SerializeToString(), timeout=WAIT)
    (loan,) = zerohop.loans()
    assert (loan.peer_pid, loan.peer_uid, loan.where) == (child.pid, os.getuid(), "")
    assert loan.bytes == pages(len(EchoRequest(payload=bytes(MIB)).SerializeToString()))
    child.resume()
    future.result(timeout=WAIT)
    assert zerohop.loans() == []


TRACED = """
stub = stub_of()
stub.Unary(EchoRequest())
futures_open = []

def send(size):
    futures_open.append(stub.Unary.future(EchoRequest(payload=bytes(size))))

def listed():
    return [[loan.bytes, loan.peer_pid, loan.peer_uid, loan.where] for loan in zerohop.loans()]
"""


def test_a_clients_loans_and_their_lines(home, launch):
    server = launch("server = serve()")
    client = launch(TRACED, ZEROHOP_TRACE_LOANS="1")
    assert client.ask("listed()") == []
    server.stop()
    client.ask("send(100_000)")
    client.ask("send(200_000)")
    listed = client.ask("listed()")
    assert sorted(size for size, *_ in listed) == [pages(100_008), pages(200_008)]
    line = next(
        number
        for number, text in enumerate(child_script(TRACED), 1)
        if text.startswith("    futures_open.append")
    )
    for _, pid, uid, where in listed:
        assert (pid, uid) == (server.pid, os.getuid())
        assert where == f"<string>:{line} send"
    server.resume()
    assert client.ask("[len(one.result(timeout=30).payload) for one in futures_open]") == [
        100_000,
        200_000,
    ]
    eventually(lambda: client.ask("listed()") == [])


def child_script(script: str) -> list[str]:
    import faultharness

    return (faultharness.PREAMBLE + faultharness.SERVER + script).splitlines()


def test_a_servers_loans_name_the_method(home, launch):
    """A reply is lent when the handler has returned: no line of the program is running."""
    server = launch("server = serve()", ZEROHOP_TRACE_LOANS="1")
    client = launch(
        "stub = stub_of()\nstub.Unary(EchoRequest())\ncall = stub.Unary.future\n"
        "def go():\n    global future\n    future = call(EchoRequest(code=100_000, count=500))"
    )
    client.ask("go()")
    client.stop()
    where = "[[loan.bytes, loan.peer_pid, loan.where] for loan in zerohop.loans()]"
    eventually(lambda: server.ask(where))
    ((size, pid, place),) = server.ask(where)
    assert size >= 100_000
    assert pid == client.pid
    assert place == "a message of /zhtest.Echo/Unary"
    client.resume()
    eventually(lambda: server.ask(where) == [])


def exit_report(child: Child) -> str:
    code, err = child.end()
    assert code == 0
    return err


def test_what_is_still_lent_at_exit_is_printed(home, launch):
    server = launch("server = serve()")
    client = launch(TRACED, ZEROHOP_TRACE_LOANS="1")
    server.stop()
    client.ask("send(100_000)")
    report = exit_report(client)
    assert "1 blocks are still lent at exit" in report
    assert f"to pid {server.pid}" in report
    assert " send" in report


def test_silence_at_exit_when_all_came_back(home, launch):
    launch("server = serve()")
    client = launch(TRACED, ZEROHOP_TRACE_LOANS="1")
    client.ask("send(100_000)")
    client.ask("len(futures_open[0].result(timeout=30).payload)")
    assert exit_report(client) == ""
    untraced = launch(TRACED)
    untraced.ask("send(100_000)")
    assert exit_report(untraced) == ""


def test_calls_the_server_ends_are_returned_before_exit(home, launch):
    """Links that end in the middle of calls give everything back when both sides have ended."""
    server = launch("server = serve()")
    client = launch(TRACED, ZEROHOP_TRACE_LOANS="1")
    client.ask(
        "futures_open.append(stub.Unary.future(EchoRequest(payload=bytes(100_000), count=9)))"
    )
    assert exit_report(client) == ""
    assert server.ask("balance()") == 0


def test_loans_are_what_the_documentation_says():
    loan = zerohop.loans.__globals__["Loan"](4096, 1, 0, "file.py:1 f")
    assert (loan.bytes, loan.peer_pid, loan.peer_uid, loan.where) == (4096, 1, 0, "file.py:1 f")
    assert inspect.getdoc(zerohop.loans)
    code = "import zerohop; print(zerohop.loans())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
