"""Pictures handed on by event loops that are idle, busy with something else, or over: their owner
has them back when the last one lets go, whether or not the loop ever runs again."""

from __future__ import annotations

import time

import pytest
from apiharness import eventually
from generatedharness import GENERATED
from test_image_share import KEEPER, SOURCE

# The process in the middle: asks one for a picture and gives it to another one.
MIDDLE = """
import asyncio, gc
from zerohop import aio

loop = asyncio.new_event_loop()
channels, stubs = [], []

async def connect():
    for name in "source", "keeper":
        channels.append(aio.insecure_channel(f"{address}.{name}"))
        stubs.append(echo_pb2_grpc.EchoStub(channels[-1]))

async def hand_on():
    source, keeper = stubs
    reply = await source.Unary(EchoRequest(), timeout=30)
    await keeper.Unary(EchoRequest(payload=reply.payload), timeout=30)

async def close():
    for channel in channels:
        await channel.close()

async def work(closes):
    await connect()
    await hand_on()
    if closes:
        await close()

def run_in_thread(closes):
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(work(closes), loop).result(30)

def stop(closes):
    loop.run_until_complete(work(closes))

def end(closes):
    stop(closes)
    loop.close()

def drop(closes):
    global loop
    end(closes)
    loop = None
    channels.clear()
    stubs.clear()
    gc.collect()

def in_child():
    global loop
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        loop = asyncio.new_event_loop()
        channels.clear()
        stubs.clear()
        stop(True)
        ours = zerohop.pumps.sync_pump()
        os._exit(0 if ours.background == 1 else 2)
    finally:
        os._exit(1)

def cpu():
    return time.process_time()
"""

WAYS = ["run_in_thread", "stop", "end", "drop"]


@pytest.fixture
def row(own, home, launch):
    address = home.address("row")
    source = launch(SOURCE, f"{address}.source", **GENERATED)
    keeper = launch(KEEPER, f"{address}.keeper", **GENERATED)
    return source, launch(MIDDLE, address, **GENERATED), keeper


def comes_back(source):
    eventually(lambda: source.ask("balance()") == 0)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_last_one_lets_go(row, way, closes):
    source, middle, keeper = row
    middle.ask(f"{way}({closes})")
    assert source.ask("balance()") == 1
    time.sleep(0.5)  # whoever looks for a while after a call does so no more
    keeper.ask("kept.clear()")
    comes_back(source)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_last_one_lets_go_at_once(row, way, closes):
    source, middle, keeper = row
    middle.ask(f"{way}({closes})")
    keeper.ask("kept.clear()")
    comes_back(source)


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_last_one_dies(row, way, closes):
    source, middle, keeper = row
    middle.ask(f"{way}({closes})")
    assert source.ask("balance()") == 1
    keeper.kill()
    comes_back(source)


def test_a_stopped_loop_goes_on(row):
    """And stops again: each time what it has handed on comes back."""
    source, middle, keeper = row
    middle.ask("stop(False)")
    for pause in 0, 0.5, 0, 0.5:
        time.sleep(pause)
        middle.ask("loop.run_until_complete(hand_on())")
        keeper.ask("kept.clear()")
        comes_back(source)


@pytest.mark.parametrize("way", WAYS)
def test_waiting_costs_nothing(row, way):
    """However long the last one keeps it."""
    source, middle, keeper = row
    middle.ask(f"{way}(False)")
    time.sleep(0.5)
    before = middle.ask("cpu()")
    time.sleep(2)
    assert middle.ask("cpu()") - before < 0.005
    keeper.ask("kept.clear()")
    comes_back(source)
    eventually(lambda: middle.ask("zerohop.pumps.sync_pump().background") == 0)


@pytest.mark.parametrize("way", ["run_in_thread", "end", "drop"])
def test_the_last_one_closes(row, way):
    """It reads on, after the link's end."""
    source, middle, keeper = row
    middle.ask(f"{way}(False)")
    keeper.ask("server.stop(None).wait()")
    time.sleep(0.3)
    assert source.ask("balance()") == 1
    keeper.ask("kept.clear()")
    comes_back(source)


def test_a_child_of_the_one_in_the_middle(row):
    """It looks after loops of its own, and leaves its parent's to the parent."""
    source, middle, keeper = row
    middle.ask("stop(False)")
    time.sleep(0.3)
    assert middle.ask("in_child()") == 0
    assert source.ask("balance()") == 2  # the child's, too, which is read on
    keeper.ask("kept.clear()")
    comes_back(source)
