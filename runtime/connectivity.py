"""Telling the callbacks of `grpc.Channel.subscribe` what state a channel is in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from zerohop._native import Pump
from zerohop.calls import report


class States(Protocol):
    """Where Subscriptions have the connectivity from; Links, or several of them."""

    pump: Pump

    def state(self) -> grpc.ChannelConnectivity: ...
    def connect(self) -> str: ...
    def watch(self, watcher: Callable[[], None]) -> None: ...
    def unwatch(self, watcher: Callable[[], None]) -> None: ...


class Subscriptions:
    """Callbacks for changes of connectivity, told in order from one thread while there are any."""

    def __init__(self, links: States) -> None:
        self._links = links
        self._condition = threading.Condition()
        self._callbacks: dict[Callable[[Any], None], grpc.ChannelConnectivity | None] = {}
        self._connect = False
        self._changed = False
        self._running = False

    def add(self, callback: Callable[[Any], None], try_to_connect: bool | None) -> None:
        with self._condition:
            self._callbacks[callback] = None
            self._connect = self._connect or bool(try_to_connect)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="zerohop-watch", daemon=True).start()
        self.poke()

    def remove(self, callback: Callable[[Any], None]) -> None:
        with self._condition:
            self._callbacks.pop(callback, None)
            if not self._callbacks:
                self._connect = False
        self.poke()

    def clear(self) -> None:
        with self._condition:
            self._callbacks.clear()
            self._connect = False
        self.poke()

    def poke(self) -> None:
        with self._condition:
            self._changed = True
            self._condition.notify_all()

    def _run(self) -> None:
        links = self._links
        links.watch(self.poke)
        links.pump.watch(1)
        try:
            pause = 0.01
            while True:
                with self._condition:
                    if not self._callbacks:
                        self._running = False
                        return
                    self._changed = False
                    connect = self._connect
                state = links.state()
                self._tell(state)
                if state is grpc.ChannelConnectivity.SHUTDOWN:
                    self.clear()
                    continue
                if state is grpc.ChannelConnectivity.READY:
                    pause = 0.01
                elif connect:
                    links.connect()
                    state = links.state()
                    self._tell(state)
                with self._condition:
                    if connect and state is not grpc.ChannelConnectivity.READY:
                        self._condition.wait(pause)
                        pause = min(pause * 2, 0.1)
                    else:
                        self._condition.wait_for(lambda: self._changed)
        finally:
            links.unwatch(self.poke)
            links.pump.watch(-1)

    def _tell(self, state: grpc.ChannelConnectivity) -> None:
        with self._condition:
            due = [callback for callback, last in self._callbacks.items() if last is not state]
            for callback in due:
                self._callbacks[callback] = state
        for callback in due:
            try:
                callback(state)
            except Exception as error:
                report(error, "a connectivity callback raised")
