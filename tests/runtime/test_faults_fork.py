"""Forks: what a child inherits is the parent's, and says so; what it makes itself works."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap

import grpc
import pytest
from apiharness import WAIT, eventually
from faultharness import PREAMBLE, SERVER
from zhtest import echo_pb2_grpc
from zhtest.types_pb2 import EchoRequest

# What a child of a fork does with what it inherited; each must raise the clear error or do nothing.
HELPERS = """
import contextlib, gc, multiprocessing

def in_child(function, leave=os._exit):
    'Runs the function in a forked child: its exit code, 0 when nothing was raised.'
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        leave(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def forked(function):
    'The function must fail as a call on an inherited object does.'
    try:
        function()
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
        assert "fork" in error.details(), error
        return
    except RuntimeError as error:
        assert "fork" in str(error), error
        return
    raise AssertionError("an inherited object worked")

def check_inherited_client():
    forked(lambda: stub.Unary(EchoRequest(), timeout=5))
    forked(lambda: stub.Unary.with_call(EchoRequest(), timeout=5))
    forked(lambda: stub.Unary.future(EchoRequest(), timeout=5).result())
    forked(lambda: list(stub.ServerStream(EchoRequest(count=1), timeout=5)))
    forked(lambda: stub.ClientStream(iter([EchoRequest()]), timeout=5))
    forked(lambda: list(stub.Bidi(iter([EchoRequest()]), timeout=5)))

def check_inherited_calls():
    forked(lambda: future.result(timeout=5))
    forked(lambda: list(stream))  # what has been received before, then the error
    future.cancel()
    stream.cancel()
    assert future.done()
    assert zerohop.loans() == []

def check_inherited_server():
    server.stop(None).wait(5)
    forked(lambda: server._core.native.listen(address[4:] + ".2", 0o600))

def check_new():
    own = stub_of()
    for size in (10, 1 << 20):
        assert len(own.Unary(EchoRequest(payload=bytes(size)), timeout=30).payload) == size
    assert len(list(own.ServerStream(EchoRequest(count=3), timeout=30))) == 3
    there = "shm:" + address[4:] + f".{os.getpid()}"
    mine = serve(there)
    assert stub_of(there).Unary(EchoRequest(text="x"), timeout=30).index == os.getpid()
    mine.stop(None).wait(5)
"""


def run(address: str, script: str, **env: str) -> str:
    code = PREAMBLE + SERVER + HELPERS + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "ZEROHOP_TEST_HARNESS": os.path.dirname(__file__), **env},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("leave", ["os._exit", "sys.exit"])
def test_everything_inherited(home, launch, leave):
    """A process that is client and server, with calls open both ways, forks. `sys.exit` runs what
    is registered at exit, and drops what the child has inherited."""
    launch("server = serve()", home.address("other"))
    other = home.address("other")
    run(
        home.address(),
        f"""
        server = serve()
        stub = stub_of({other!r})
        self_stub = stub_of()
        assert self_stub.Unary(EchoRequest(), timeout=30).index == os.getpid()
        future = stub.Unary.future(EchoRequest(text="f", count=1500))
        stream = stub.ServerStream(EchoRequest(count=1 << 30))
        next(stream)

        def child():
            check_inherited_client()
            check_inherited_calls()
            check_inherited_server()
            global address
            inherited, address = address, {other!r}
            check_new()
            gc.collect()

        for _ in range(3):
            assert in_child(child, {leave}) == 0
        # The parent's socket, calls and links are as they were.
        assert os.path.exists(address[4:])
        assert next(stream).index == 1
        assert future.result(timeout=30).text == "f"
        assert self_stub.Unary(EchoRequest(payload=bytes(1 << 20)), timeout=30).index == os.getpid()
        assert stub_of().Unary(EchoRequest(), timeout=30).index == os.getpid()
        stream.cancel()
        """,
    )


def test_a_child_that_drops_everything(home):
    """Destructors and the garbage collector over what belongs to the parent."""
    run(
        home.address(),
        """
        server = serve()
        stub = stub_of()
        calls = [stub.Unary.future(EchoRequest(count=500, payload=bytes(100_000))) for _ in "123"]
        stream = stub.ServerStream(EchoRequest(count=1 << 30, payload=bytes(100_000)))
        next(stream)

        def child():
            global server, stub, calls, stream
            del server, stub, calls, stream
            gc.collect()
            check = serve(address + ".own")
            assert stub_of(address + ".own").Unary(EchoRequest(), timeout=30).index == os.getpid()

        assert in_child(child, sys.exit) == 0
        assert [len(call.result(timeout=30).payload) for call in calls] == [100_000] * 3
        assert len(next(stream).payload) == 100_000
        stream.cancel()
        """,
    )


def test_grandchildren_and_threads(home, launch):
    """A fork in a fork, in a thread, while other threads call."""
    launch("server = serve()")
    run(
        home.address(),
        """
        stub = stub_of()
        stop = threading.Event()
        done = [0]

        def traffic():
            while not stop.is_set():
                stub.Unary(EchoRequest(payload=bytes(20_000)), timeout=30)
                done[0] += 1

        threads = [threading.Thread(target=traffic) for _ in range(3)]
        for thread in threads:
            thread.start()

        def child():
            check_inherited_client()
            check_new()
            inner = stub_of()
            inner.Unary(EchoRequest(), timeout=30)

            def grandchild():
                forked(lambda: inner.Unary(EchoRequest(), timeout=5))
                check_inherited_client()
                check_new()

            assert in_child(grandchild) == 0
            inner.Unary(EchoRequest(), timeout=30)

        codes = []
        def fork():
            codes.extend(in_child(child) for _ in range(3))
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join(60)
        before = done[0]
        while done[0] < before + 50:
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert codes == [0, 0, 0], codes
        """,
    )


def test_multiprocessing_pool(home, launch):
    server = launch("server = serve()")
    out = run(
        home.address(),
        """
        stub = stub_of()
        stub.Unary(EchoRequest(), timeout=30)
        own = None

        def work(number):
            global own
            if own is None:
                forked(lambda: stub.Unary(EchoRequest(), timeout=5))
                own = stub_of()
            reply = own.Unary(EchoRequest(payload=bytes(number * 1000)), timeout=30)
            return reply.index, len(reply.payload), os.getpid()

        with multiprocessing.get_context("fork").Pool(4) as pool:
            results = pool.map(work, range(200), chunksize=5)
        assert [size for _, size, _ in results] == [number * 1000 for number in range(200)]
        assert stub.Unary(EchoRequest(), timeout=30).index == results[0][0]
        print(results[0][0])
        """,
    )
    assert int(out) == server.pid
    eventually(lambda: server.ask("balance()") == 0)
    eventually(lambda: server.ask("holdings()['links']") == 0)


def test_preloaded_workers(home, tmp_path, monkeypatch):
    """As gunicorn's preload does: the parent makes a server and publishes it, children are forked
    and serve the same name each; clients balance over all, and the parent's entry stays."""
    registry = tmp_path / "registry"
    monkeypatch.setenv("ZEROHOP_REGISTRY", str(registry))
    script = """
    import signal
    parent = serve("zerohop:///shop")
    assert stub_of("zerohop:///shop").Unary(EchoRequest(), timeout=30).index == os.getpid()
    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            worker = serve("zerohop:///shop")
            os.write(1, b"worker\\n")
            time.sleep(60)
            os._exit(0)
        pids.append(pid)
    """
    code = (
        PREAMBLE
        + SERVER
        + textwrap.dedent(script)
        + '\nos.write(1, f"{pids}\\n".encode())\ncommands(globals())\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "unused"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZEROHOP_TEST_HARNESS": os.path.dirname(__file__)},
    )
    workers: list[int] = []
    try:
        lines = [process.stdout.readline().strip() for _ in range(5)]
        assert lines.count("worker") == 3
        workers = next(eval(line) for line in lines if line.startswith("["))
        stub = echo_pb2_grpc.EchoStub(home.channel("zerohop:///shop"))
        expected = {process.pid, *workers}

        def seen():
            try:
                return {stub.Unary(EchoRequest(), timeout=WAIT).index for _ in range(8)}
            except grpc.RpcError as error:  # the call that was under way when one of them ended
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                return None

        eventually(lambda: seen() == expected)
        # A worker ends, in order and not: its entry goes, the others' stay.
        os.kill(workers[0], 9)
        eventually(lambda: seen() == expected - {workers[0]})
        os.kill(workers[1], 15)
        eventually(lambda: seen() == expected - set(workers[:2]))
        process.kill()
        process.wait()
        eventually(lambda: seen() == {workers[2]})
    finally:
        process.kill()
        process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.stdin.close()
        process.stdout.close()


def test_the_registry_of_a_forked_child(home, tmp_path):
    """The child's exit, with all that runs at exit, leaves the parent's entry and its socket."""
    run(
        home.address(),
        """
        server = serve("zerohop:///mine")
        stub = stub_of("zerohop:///mine")
        stub.Unary(EchoRequest(), timeout=30)
        entries = sorted(os.listdir(os.environ["ZEROHOP_REGISTRY"]))

        def child():
            forked(lambda: stub.Unary(EchoRequest(), timeout=5))
            assert stub_of("zerohop:///mine").Unary(EchoRequest(), timeout=30).index == os.getppid()

        assert in_child(child, sys.exit) == 0
        assert in_child(child, os._exit) == 0
        assert sorted(os.listdir(os.environ["ZEROHOP_REGISTRY"])) == entries
        assert stub_of("zerohop:///mine").Unary(EchoRequest(), timeout=30).index == os.getpid()
        """,
        ZEROHOP_REGISTRY=str(tmp_path / "registry"),
    )
