"""Servers: grpc.aio.Server over shared memory, and over grpcio for every other address."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
from zerohop import _native, log
from zerohop.address import parse_target
from zerohop.aio.context import Context
from zerohop.aio.handling import Plan, conclude, serve
from zerohop.aio.plans import plan
from zerohop.aio.signals import working_loop
from zerohop.handlers import LATE_HANDLERS, HandlerCallDetails, Handlers
from zerohop.options import ChannelArguments, parse
from zerohop.pumps import loop_pump
from zerohop.registry import Registration, Registry
from zerohop.server import socket_mode

_log = log.logger("server")

_UNIMPLEMENTED = 12


class Core:
    """What serves; the Server in front of it may be dropped, which stops it."""

    def __init__(
        self,
        pool: futures.Executor | None,
        handlers: Handlers,
        options: ChannelArguments | None,
        maximum_concurrent_rpcs: int | None,
    ) -> None:
        if maximum_concurrent_rpcs is not None and maximum_concurrent_rpcs <= 0:
            raise ValueError("maximum_concurrent_rpcs should be a positive integer")
        self.handlers = handlers
        self.options = parse(options)
        self.loop = working_loop()
        self.pump = loop_pump(self.loop)
        self._pool = pool
        self._names: dict[str, Registration] = {}
        self._entries: list[Registration] = []
        self._paths: list[str] = []
        self._pid = os.getpid()
        self._plans: dict[str, Plan | None] = {}
        self._running: set[Context] = set()
        self.started = False
        self.stopping = False
        self.termination: asyncio.Future[None] = self.loop.create_future()
        native = self.native = _native.Server(self.pump.pump)
        native.call_type = Context
        native.max_receive = self.options.max_receive
        native.max_send = self.options.max_send
        native.max_running = -1 if maximum_concurrent_rpcs is None else maximum_concurrent_rpcs
        native.max_streams = self.options.max_concurrent_streams or 0
        native.allow_uids = self.options.allow_uids
        native.on_call = self._on_call
        native.types = self.handlers.types
        native.on_cancel = self._on_cancel
        native.on_idle = self._check_end

    def forked(self) -> bool:
        return self._pid != os.getpid()

    # --- addresses -----------------------------------------------------------------------------

    def listen(self, path: str) -> None:
        self.native.listen(path, socket_mode(self.options.allow_uids))
        self._paths.append(path)
        self.pump.guests.add(self)

    def publish(self, name: str) -> None:
        self._names[name] = self.enter()

    def enter(self) -> Registration:
        """Listen on a socket in the registry. The caller commits the entry; the end closes it."""
        registration = Registry().reserve()
        try:
            self.native.listen(registration.socket_path, socket_mode(self.options.allow_uids))
        except BaseException:
            registration.close()
            raise
        self._entries.append(registration)
        self.pump.guests.add(self)
        return registration

    def start(self) -> None:
        self.started = True
        self.native.start()
        for name, registration in self._names.items():
            registration.commit([name])

    def _leave_addresses(self) -> None:
        if self.forked():  # a child must not take the parent's addresses
            return
        for registration in self._entries:
            registration.close()
        self._entries.clear()
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    # --- serving -------------------------------------------------------------------------------

    def _plan_of(self, method: str) -> Plan | None:
        """The plan of a method whose handler is the same for every call."""
        try:
            return self._plans[method]
        except KeyError:
            handler = self.handlers.constant(method)
            found = None if handler is None else plan(handler, self._pool)
            if len(self._plans) < 4096:
                self._plans[method] = found
            return found

    def _on_call(self, context: Context) -> None:
        method = context.method or ""
        found = self._plan_of(method)
        context.loop = self.loop
        self._running.add(context)
        if found is not None:
            coroutine = serve(context, found, self._ended)
        else:
            coroutine = self._find_and_serve(context, method)
        try:
            # Not create_task's own parameter: task factories of before Python 3.11 do not know it.
            context.task = contextvars.Context().run(self.loop.create_task, coroutine)
        except BaseException:
            self._running.discard(context)
            coroutine.close()
            raise

    async def _find_and_serve(self, context: Context, method: str) -> None:
        details = HandlerCallDetails(method, context.invocation_metadata())
        try:
            handler = await self._find(0, details)
            found = None if handler is None else plan(handler, self._pool)
        except BaseException as error:
            try:
                conclude(context, error)
            finally:
                self._ended(context)
            return
        if found is None:
            context.finish(_UNIMPLEMENTED, "Method not found!", None, None)
            self._ended(context)
        else:
            await serve(context, found, self._ended)

    async def _find(self, index: int, details: Any) -> Any:
        """The handler that the interceptors from number `index` on yield."""
        interceptors = self.handlers.interceptors
        if index == len(interceptors):
            return self.handlers.query(details)

        async def continuation(following: Any) -> Any:
            return await self._find(index + 1, following)

        return await interceptors[index].intercept_service(continuation, details)

    def _on_cancel(self, context: Context) -> None:
        """The client has given up, the deadline has passed or the link has ended."""
        task = context.task
        if task is not None and not task.done():
            # One that has not run yet will never reach its end.
            task.add_done_callback(lambda _: self._ended(context))
            task.cancel()

    def _ended(self, context: Context) -> None:
        """The task of a call is at its end. Idempotent."""
        if context not in self._running:
            return
        self._running.discard(context)
        context.task = None
        context.retire()
        if context.callbacks is not None:
            context.run_callbacks()
        if self.stopping:
            self._check_end()

    # --- the end -------------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        self.stopping = True
        self.native.stop()
        self._leave_addresses()

    def cancel_all(self) -> None:
        self.native.cancel_all()
        self._check_end()

    def _check_end(self) -> None:
        if self.stopping and self.native.open == 0 and not self._running:
            self.native.close_links()
            if not self.termination.done() and not self.loop.is_closed():
                self.termination.set_result(None)

    async def stop(self, grace: float | None) -> None:
        if not self.started or self.termination.done():
            if not self.started:
                self.stop_accepting()
            return
        if not self.stopping:
            self.stop_accepting()
        if grace is None or grace <= 0:
            self.cancel_all()
        else:
            self._check_end()
            await asyncio.wait((self.termination,), timeout=grace)
            if not self.termination.done():
                self.cancel_all()
        await asyncio.shield(self.termination)

    def abandon(self) -> None:
        """The loop has ended, or nobody has the server any more."""
        if self.forked():
            return
        if not self.stopping:
            self.stop_accepting()
        self.cancel_all()
        if self.loop.is_closed():
            self.native.close_links()


class Server(grpc.aio.Server):
    """A server on `shm:` and `zerohop:///` addresses, and on any other through grpcio.

    One handler table serves them all. Handlers run in the event loop; those that are not
    asynchronous, in `migration_thread_pool` or, without one, in the loop's default executor.
    """

    def __init__(
        self,
        migration_thread_pool: futures.Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[Any] | None = None,
        options: ChannelArguments | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
    ) -> None:
        for interceptor in interceptors or ():
            if not isinstance(interceptor, grpc.aio.ServerInterceptor):
                raise ValueError(
                    f"Interceptor must be ServerInterceptor, the following is not: {interceptor}"
                )
        self._core = Core(
            migration_thread_pool, Handlers(interceptors), options, maximum_concurrent_rpcs
        )
        self._plain_arguments = (
            migration_thread_pool,
            None,
            tuple(interceptors or ()) or None,
            options,
            maximum_concurrent_rpcs,
            compression,
        )
        self._plain: grpc.aio.Server | None = None  # grpcio's, for addresses that are not ours
        self._added: list[Callable[[Any], None]] = []
        if handlers:
            self.add_generic_rpc_handlers(handlers)

    def _add(self, add: Callable[[Any], None]) -> None:
        self._added.append(add)
        if self._plain is not None:
            add(self._plain)

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        handlers = tuple(generic_rpc_handlers)
        self._core.handlers.add_generic(handlers)
        self._add(lambda server: server.add_generic_rpc_handlers(handlers))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        if self._core.started:  # methods that have been called are settled
            _log.warning(LATE_HANDLERS)
            return
        self._core.handlers.add_registered(service_name, method_handlers)
        self._add(
            lambda server: server.add_registered_method_handlers(service_name, method_handlers)
        )

    def _plain_server(self) -> grpc.aio.Server:
        if self._plain is None:
            self._plain = grpc.aio.server(*self._plain_arguments)
            for add in self._added:
                add(self._plain)
        return self._plain

    def add_insecure_port(self, address: str) -> int:
        """Listen on an address. Returns the port, 1 where there is none. Raises RuntimeError."""
        target = parse_target(address)
        try:
            if target.kind == "shm":
                self._core.listen(target.path)
                return 1
            if target.kind == "zerohop":
                self._core.publish(target.name)
                return 1
        except OSError as error:
            raise RuntimeError(
                f"Failed to bind to address {address}: {error.strerror or error}"
            ) from error
        return self._plain_server().add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        target = parse_target(address)
        if target.native:
            raise ValueError(
                f"{address} is shared memory, which the kernel protects by user id: use "
                "add_insecure_port (and zerohop.allow_uids for other users)"
            )
        return self._plain_server().add_secure_port(address, server_credentials)

    async def start(self) -> None:
        core = self._core
        if core.stopping:
            raise grpc.aio.UsageError("Server not in ready state")
        if core.started:
            return
        core.start()
        if self._plain is not None:
            await self._plain.start()

    async def stop(self, grace: float | None) -> None:
        if self._plain is None:
            await self._core.stop(grace)
        else:
            await asyncio.gather(self._core.stop(grace), self._plain.stop(grace))

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until the server has stopped. Returns whether that timed out."""
        termination = self._core.termination
        if self._plain is None:
            await asyncio.wait((termination,), timeout=timeout)
            return not termination.done()
        plain = asyncio.ensure_future(self._plain.wait_for_termination(timeout))
        try:
            await asyncio.wait((termination, plain), timeout=timeout)
            return not termination.done() or not plain.done() or bool(plain.result())
        finally:
            plain.cancel()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is None or core.termination.done() or core.forked():
            return
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            core.loop.call_soon_threadsafe(core.abandon)
            return
        with contextlib.suppress(Exception):
            core.abandon()
