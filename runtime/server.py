"""Servers: grpc.Server over shared memory, and beside it over grpcio for every other address."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from zerohop import _native, log
from zerohop._native import EVENT_WRITABLE, ArenaFull, Snapshot, image_serializer
from zerohop.address import parse_target
from zerohop.context import Context, RequestIterator
from zerohop.handlers import (
    LATE_HANDLERS,
    Handler,
    HandlerCallDetails,
    Handlers,
    behavior_of,
)
from zerohop.options import ChannelArguments, parse
from zerohop.pumps import sync_pump
from zerohop.registry import Registration, Registry

_log = log.logger("server")

# For streaming handlers of a server without a pool: they block, so they need threads.
STREAM_THREADS = 32

# A thread that waits for the end of a server looks this often whether a signal has come.
SIGNALS = 0.2

_INTERNAL = grpc.StatusCode.INTERNAL
_UNKNOWN = grpc.StatusCode.UNKNOWN
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def socket_mode(allow_uids: Sequence[int]) -> int:
    """The mode of a listening socket: others may try to connect only if some are allowed."""
    return 0o666 if allow_uids else 0o600


def _aborted(context: Context, code: grpc.StatusCode, details: str) -> None:
    number, text = context.abortion(code, details)
    context.finish(number, text, context.user_trailing, None)


def _handler_raised(context: Context, error: BaseException, doing: str) -> None:
    """End a call whose handler raised, in the words and the log of grpcio."""
    if context._aborted:
        _aborted(context, _UNKNOWN, "RPC Aborted")
    elif error is context._rpc_error:
        if not context.is_done:
            _aborted(context, _UNKNOWN, "RPC Aborted")
    else:
        try:
            details = f"Exception {doing}: {error}"
        except Exception:
            details = "Calling application raised unprintable Exception!"
        _log.error(details, exc_info=error)
        _aborted(context, _EXHAUSTED if isinstance(error, ArenaFull) else _UNKNOWN, details)


def _serialize(context: Context, response: Any, serializer: Any) -> bytes | Snapshot | None:
    try:
        message = response if serializer is None else serializer(response)
        if isinstance(message, (bytes, Snapshot)):
            return message
        raise TypeError(f"a serialized message is bytes, not {type(message)}")
    except Exception as error:
        _log.error("Exception serializing message!", exc_info=error)
        _aborted(context, _INTERNAL, "Failed to serialize response!")
        return None


def _complete(context: Context, message: bytes | Snapshot | None) -> None:
    if not context.is_done:
        number, details = context.completion()
        context.finish(number, details, context.user_trailing, message)


def _conclude(context: Context, stage: int, value: Any) -> None:
    """The rare ends of the native path of unary calls (see serve.c)."""
    if stage == 0:
        if isinstance(value, BaseException):
            _log.error("Exception deserializing message!", exc_info=value)
        _aborted(context, _INTERNAL, "Exception deserializing request!")
    elif stage == 1:
        _handler_raised(context, value, "calling application")
    elif stage == 2:
        _log.error("Exception serializing message!", exc_info=value)
        _aborted(context, _INTERNAL, "Failed to serialize response!")
    else:
        entry = context.entry
        message = _serialize(context, value, entry[2])
        if message is not None:
            _complete(context, message)


class _Run:
    """Running one call's handler in this thread."""

    def __init__(self, handler: Handler, context: Context) -> None:
        self._handler = handler
        self._behavior = behavior_of(handler)
        self._context = context
        self._serializer = image_serializer(handler.response_serializer)

    def __call__(self) -> None:
        context, handler = self._context, self._handler
        try:
            if handler.request_streaming:
                argument: Any = RequestIterator(context, handler.request_deserializer)
            else:
                argument, proceed = self._unary_request()
                if not proceed:
                    return
            if handler.response_streaming:
                self._stream(argument)
            else:
                self._unary(argument)
        except Exception:
            _log.exception("the server failed to run a handler")
        finally:
            if not context.is_done and not self._detached():
                _aborted(context, _INTERNAL, "the server failed to run the handler")
            context.retire()

    def _detached(self) -> bool:
        """A non-blocking handler has returned and sends its responses from elsewhere."""
        return bool(
            self._handler.response_streaming
            and getattr(self._behavior, "experimental_non_blocking", False)
        )

    def _unary_request(self) -> tuple[Any, bool]:
        context = self._context
        message = context.next()
        if message is None:
            if not context.is_done:
                _aborted(
                    context,
                    grpc.StatusCode.UNIMPLEMENTED,
                    f'"{context.method}" requires exactly one request message.',
                )
            return None, False
        deserializer = self._handler.request_deserializer
        if deserializer is None:
            return message, True
        try:
            request = deserializer(message)
            if request is not None:
                return request, True
        except Exception as error:
            _log.error("Exception deserializing message!", exc_info=error)
        _aborted(context, _INTERNAL, "Exception deserializing request!")
        return None, False

    def _unary(self, argument: Any) -> None:
        context = self._context
        try:
            response = self._behavior(argument, context)
        except Exception as error:
            _handler_raised(context, error, "calling application")
            return
        if not context.is_done:
            message = _serialize(context, response, self._serializer)
            if message is not None:
                _complete(context, message)

    def _stream(self, argument: Any) -> None:
        context = self._context
        if self._detached():
            try:
                self._behavior(argument, context, self._send_response)
            except Exception as error:
                _handler_raised(context, error, "calling application")
            return
        try:
            responses = self._behavior(argument, context)
        except Exception as error:
            _handler_raised(context, error, "calling application")
            return
        serializer = self._serializer
        send = context.send
        try:
            for response in responses:
                if response is None:  # ends the stream, as in grpcio
                    break
                if serializer is None:
                    message = response
                else:
                    message = _serialize(context, response, serializer)
                    if message is None:
                        return
                if not send(message):
                    if not context.is_done:
                        context.wait(EVENT_WRITABLE)
                    if context.is_done:
                        return
        except Exception as error:
            _handler_raised(context, error, "iterating responses")
            return
        finally:
            close = getattr(responses, "close", None)
            if close is not None and context.is_done:
                with contextlib.suppress(Exception):
                    close()
        _complete(context, None)

    def _send_response(self, response: Any) -> None:
        """What an `experimental_non_blocking` handler calls, with None at the end."""
        context = self._context
        if response is None:
            _complete(context, None)
            return
        message = _serialize(context, response, self._serializer)
        if message is not None and not context.is_done and not context.send(message):
            context.wait(EVENT_WRITABLE)


class Core:
    """What serves; the Server in front of it may be dropped, which stops it."""

    def __init__(
        self,
        pool: futures.Executor | None,
        handlers: Handlers,
        options: ChannelArguments | None,
        maximum_concurrent_rpcs: int | None,
    ) -> None:
        self.handlers = handlers
        self.options = parse(options)
        self._pool = pool
        self._stream_pool: ThreadPoolExecutor | None = None
        self._names: dict[str, Registration] = {}
        self._entries: list[Registration] = []
        self._paths: list[str] = []
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self.started = False
        self._stopping = False
        self._shutdown_events: list[threading.Event] = []
        self.termination = threading.Event()
        native = self.native = _native.Server(sync_pump())
        native.call_type = Context
        native.max_receive = self.options.max_receive
        native.max_send = self.options.max_send
        native.max_running = -1 if maximum_concurrent_rpcs is None else maximum_concurrent_rpcs
        native.max_streams = self.options.max_concurrent_streams or 0
        native.allow_uids = self.options.allow_uids
        native.resolve = self._resolve
        native.types = self.handlers.types
        native.on_call = self._on_call
        native.conclude = _conclude
        native.on_idle = self._on_idle
        if pool is not None:
            native.submit = self._submit
            native.may_poll = _may_poll(pool, native)

    # --- addresses -----------------------------------------------------------------------------

    def listen(self, path: str) -> None:
        self.native.listen(path, socket_mode(self.options.allow_uids))
        self._paths.append(path)

    def publish(self, name: str) -> None:
        self._names[name] = self.enter()

    def enter(self) -> Registration:
        """Listen on a socket in the registry. The caller commits the entry; stop() closes it."""
        registration = Registry().reserve()
        try:
            self.native.listen(registration.socket_path, socket_mode(self.options.allow_uids))
        except BaseException:
            registration.close()
            raise
        self._entries.append(registration)
        return registration

    @property
    def pooled(self) -> bool:
        """Do threads of a pool run handlers?"""
        return self._pool is not None or self._stream_pool is not None

    def start(self) -> None:
        self.started = True
        _started.add(self)
        self.native.start()
        for name, registration in self._names.items():
            registration.commit([name])

    # --- serving -------------------------------------------------------------------------------

    def _resolve(self, method: str) -> Any:
        """Unary handlers that are the same for every call run without leaving C."""
        handler = self.handlers.constant(method)
        if (
            handler is None
            or handler.request_streaming
            or handler.response_streaming
            or hasattr(handler.unary_unary, "experimental_thread_pool")
        ):
            return False
        return (
            handler.unary_unary,
            handler.request_deserializer,
            image_serializer(handler.response_serializer),
        )

    def _submit(self, call: Context) -> None:
        assert self._pool is not None
        self._pool.submit(self.native.serve_in_pool, call)

    def _on_call(self, call: Context) -> None:
        """Find the handler of a call and run it here or in the pool that it needs."""
        context = contextvars.Context()
        try:
            handler = context.run(
                self.handlers.find,
                HandlerCallDetails(call.method or "", call.invocation_metadata()),
            )
        except Exception as error:
            _log.error(f"Exception servicing handler: {error}", exc_info=error)
            _aborted(call, _UNKNOWN, "Error in service handler!")
            call.retire()
            return
        if handler is None:
            _aborted(call, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            call.retire()
            return
        run = _Run(handler, call)
        pool = self._pool_of(handler)
        if pool is None:
            context.run(run)
        else:
            try:
                pool.submit(context.run, run)
            except RuntimeError:  # it has been shut down
                _aborted(call, grpc.StatusCode.UNAVAILABLE, "the thread pool takes no more work")
                call.retire()

    def _pool_of(self, handler: Handler) -> futures.Executor | None:
        behavior = behavior_of(handler)
        own = getattr(behavior, "experimental_thread_pool", None)
        if isinstance(own, ThreadPoolExecutor):
            return own
        if self._pool is not None:
            return None  # we are in it
        if getattr(behavior, "experimental_non_blocking", False):
            return None
        if not handler.request_streaming and not handler.response_streaming:
            return None
        with self._lock:
            if self._stream_pool is None:
                self._stream_pool = ThreadPoolExecutor(
                    STREAM_THREADS, thread_name_prefix="zerohop-stream"
                )
            return self._stream_pool

    # --- the end -------------------------------------------------------------------------------

    def stop(self, grace: float | None) -> threading.Event:
        event = threading.Event()
        with self._lock:
            if self.termination.is_set():
                event.set()
                return event
            self._shutdown_events.append(event)
            first = not self._stopping
            self._stopping = True
        if not self.started:
            self._stop_unstarted(event)
            return event
        if first:
            for registration in self._entries:
                registration.close()
            self.native.stop()
            self._remove_sockets()
        if grace is None or grace <= 0:
            self.native.cancel_all()
        else:
            threading.Thread(
                target=self._cancel_after, args=(event, grace), name="zerohop-stop", daemon=True
            ).start()
        if self.native.open == 0:
            self._on_idle()
        return event

    def _stop_unstarted(self, event: threading.Event) -> None:
        """It did not run, so it does not terminate either, as in grpcio."""
        for registration in self._entries:
            registration.close()
        self.native.stop()
        self._remove_sockets()
        event.set()

    def _cancel_after(self, event: threading.Event, grace: float) -> None:
        if not event.wait(grace):
            self.native.cancel_all()

    def _remove_sockets(self) -> None:
        if self._pid == os.getpid():  # a forked child's exit must not take the parent's socket
            for path in self._paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        self._paths.clear()

    def _on_idle(self) -> None:
        with self._lock:
            if self.termination.is_set():
                return
            self.termination.set()
            events, self._shutdown_events = self._shutdown_events, []
        self.native.close_links()
        if self._stream_pool is not None:
            self._stream_pool.shutdown(wait=False)
        for event in events:
            event.set()


def _may_poll(pool: futures.Executor, native: _native.Server) -> Callable[[], bool]:
    """May a thread of this pool poll on for a moment? Not while anybody waits for a thread.

    Only the standard library's own pool can be asked; others get every call by submit.
    """
    if type(pool).submit is not ThreadPoolExecutor.submit:
        return lambda: False
    workers: int = pool._max_workers  # type: ignore[attr-defined]
    waiting = pool._work_queue.empty  # type: ignore[attr-defined]
    if workers < 2:
        return lambda: False
    return lambda: native.running < workers and waiting()


_started: weakref.WeakSet[Core] = weakref.WeakSet()


def _stop_pooled() -> None:
    """At exit, before Python joins the threads of pools: end what their handlers may wait for.

    From here on a pool takes no more work, so its server is at its end. A server without one goes
    on while threads of the program do.
    """
    for core in list(_started):
        if core.pooled and not core.termination.is_set():
            with contextlib.suppress(Exception):
                core.stop(None)


# As concurrent.futures.thread did when it was imported; functions registered later run earlier.
threading._register_atexit(_stop_pooled)  # type: ignore[attr-defined]


class Server(_native.Disposable, grpc.Server):
    """A server on `shm:` and `zerohop:///` addresses, and on any other through grpcio.

    One handler table serves them all. Without a thread pool, unary handlers run in the
    thread that polls: the fastest way for handlers that do not block.
    """

    def __init__(
        self,
        thread_pool: futures.Executor | None = None,
        handlers: Sequence[grpc.GenericRpcHandler] | None = None,
        interceptors: Sequence[Any] | None = None,
        options: ChannelArguments | None = None,
        maximum_concurrent_rpcs: int | None = None,
        compression: grpc.Compression | None = None,
    ) -> None:
        table = Handlers(interceptors)
        self._core = Core(thread_pool, table, options, maximum_concurrent_rpcs)
        self._pool = thread_pool
        self._plain_arguments = (
            list(interceptors or ()) or None,
            options,
            maximum_concurrent_rpcs,
            compression,
        )
        self._plain: grpc.Server | None = None  # grpcio's, for addresses that are not ours
        self._added: list[Callable[[grpc.Server], None]] = []
        if handlers:
            self.add_generic_rpc_handlers(handlers)

    def _add(self, add: Callable[[Any], None]) -> None:
        self._added.append(add)
        if self._plain is not None:
            add(self._plain)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        handlers = tuple(generic_rpc_handlers)
        self._core.handlers.add_generic(handlers)
        self._add(lambda server: server.add_generic_rpc_handlers(handlers))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        if self._core.started:  # methods that have been called are settled
            _log.warning(LATE_HANDLERS)
            return
        self._core.handlers.add_registered(service_name, method_handlers)
        self._add(
            lambda server: server.add_registered_method_handlers(service_name, method_handlers)
        )

    def _plain_server(self) -> grpc.Server:
        if self._plain is None:
            interceptors, options, limit, compression = self._plain_arguments
            pool: Any = self._pool or ThreadPoolExecutor(thread_name_prefix="zerohop-grpc")
            self._plain = grpc.server(
                pool,
                None,
                interceptors,
                options,
                limit,
                compression,
            )
            for add in self._added:
                add(self._plain)
        return self._plain

    def add_insecure_port(self, address: str) -> int:
        """Listen on an address. Returns the port, 1 where there is none; else RuntimeError."""
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

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        target = parse_target(address)
        if target.native:
            raise ValueError(
                f"{address} is shared memory, which the kernel protects by user id: use "
                "add_insecure_port (and zerohop.allow_uids for other users)"
            )
        return self._plain_server().add_secure_port(address, server_credentials)

    def start(self) -> None:
        if self._core.started:
            raise ValueError("Cannot start already-started server!")
        self._core.start()
        if self._plain is not None:
            self._plain.start()

    def stop(self, grace: float | None) -> threading.Event:
        event = self._core.stop(grace)
        if self._plain is None:
            return event
        return Both(event, self._plain.stop(grace))

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Block until the server has stopped. Returns whether that timed out."""
        end = None if timeout is None else time.monotonic() + timeout
        # In steps: a signal that comes just before the thread sleeps, or that another thread takes,
        # does not end the sleep.
        while not self._core.termination.wait(
            SIGNALS if end is None else min(SIGNALS, max(0.0, end - time.monotonic()))
        ):
            if end is not None and time.monotonic() >= end:
                return True
        if self._plain is not None:
            return bool(
                self._plain.wait_for_termination(
                    None if end is None else max(0.0, end - time.monotonic())
                )
            )
        return False

    def _dispose(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and not core.termination.is_set():
            with contextlib.suppress(Exception):
                core.stop(None)


class Both(threading.Event):
    """The event of a server that stops in two places."""

    def __init__(self, first: threading.Event, second: threading.Event) -> None:
        super().__init__()
        self._parts = (first, second)

    def is_set(self) -> bool:
        return all(part.is_set() for part in self._parts)

    isSet = is_set

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        return all(
            part.wait(None if end is None else max(0.0, end - time.monotonic()))
            for part in self._parts
        )
