"""The call path, in C: see runtime/native/. All objects are guarded by the GIL."""

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from typing import Any, Final, Generic, Literal, Self, final, overload

from typing_extensions import TypeVar

_T = TypeVar("_T")
_K = TypeVar("_K")
_D = TypeVar("_D")
# What may be given where _T is read: any buffer for a memoryview, an int for an enum.
_G = TypeVar("_G", default=_T)

__version__: str

EVENT_INITIAL: Final[int]
EVENT_MESSAGE: Final[int]
EVENT_WRITABLE: Final[int]
EVENT_DONE: Final[int]

class ForkError(RuntimeError):
    """An object made before a fork was used in the child."""

def stats() -> dict[str, int]:
    """The counters of this process, by name."""

def now() -> int:
    """CLOCK_MONOTONIC in nanoseconds: the clock of deadlines."""

def set_loan_tracer(tracer: Callable[[str | None], int] | None, /) -> None:
    """tracer(method) gives the tag of each new loan (ZEROHOP_TRACE_LOANS).

    `method` is None for the first message of a call, which its caller lends.
    """

def tune_malloc() -> bool:
    """Keep freed memory for large messages (mallopt); whether malloc took it."""

class ArenaFull(MemoryError):
    """The shared memory for messages is used up; the message is as it was before."""

class Message:
    """What all generated messages are: protobuf's Python API."""

    DESCRIPTOR: Any
    # Names are Any here, since generated interfaces list those of their fields.
    def ByteSize(self) -> int: ...
    def Clear(self) -> None: ...
    def ClearField(self, name: Any, /) -> None: ...
    def CopyFrom(self, other: Self, /) -> None: ...
    def DiscardUnknownFields(self) -> None: ...
    def FindInitializationErrors(self) -> list[str]: ...
    @classmethod
    def FromString(cls, data: Any, /) -> Self: ...
    def HasField(self, name: Any, /) -> bool: ...
    def __contains__(self, name: Any, /) -> bool: ...
    def IsInitialized(self, errors: list[str] | None = None, /) -> bool: ...
    def ListFields(self) -> list[tuple[Any, Any]]: ...
    def MergeFrom(self, other: Self, /) -> None: ...
    def MergeFromString(self, data: Any, /) -> int: ...
    def ParseFromString(self, data: Any, /) -> int: ...
    def SerializePartialToString(self, *, deterministic: bool = False) -> bytes: ...
    def SerializeToString(self, *, deterministic: bool = False) -> bytes: ...
    def SetInParent(self) -> None: ...
    def WhichOneof(self, name: Any, /) -> str | None: ...
    @classmethod
    def _fingerprint(cls) -> bytes:
        """The layout's fingerprint: docs/image.md."""

class _RepeatedBase(Generic[_T, _G]):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T]: ...
    @overload
    def __getitem__(self, index: int, /) -> _T: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[_T]: ...
    def __delitem__(self, index: int | slice, /) -> None: ...
    def __contains__(self, value: object, /) -> bool: ...
    def append(self, value: _G, /) -> None: ...
    def extend(self, values: Iterable[_G] | None, /) -> None: ...
    def insert(self, index: int, value: _G, /) -> None: ...
    def pop(self, index: int = -1, /) -> _T: ...
    def remove(self, value: _G, /) -> None: ...
    def clear(self) -> None: ...
    def sort(self, *, key: Callable[[_T], Any] | None = None, reverse: bool = False) -> None: ...
    def reverse(self) -> None: ...
    def index(self, value: _G, /) -> int: ...
    def count(self, value: _G, /) -> int: ...
    def MergeFrom(self, other: Self, /) -> None: ...
    def reserve(self, count: int, /) -> None:
        """Have room for so many elements, so that appending moves nothing."""

@final
class Repeated(_RepeatedBase[_T, _G]):
    """A repeated field of scalars, text or bytes; a buffer of the scalars."""

    @overload
    def __setitem__(self, index: int, value: _G, /) -> None: ...
    @overload
    def __setitem__(self, index: slice, value: Iterable[_G], /) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class RepeatedMessages(_RepeatedBase[_T]):
    """A repeated field of messages."""

    def add(self, **fields: Any) -> _T: ...

class _MapBase(Generic[_K, _T]):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_K]: ...
    def __getitem__(self, key: _K, /) -> _T: ...
    def __delitem__(self, key: _K, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    @overload
    def get(self, key: _K, /) -> _T | None: ...
    @overload
    def get(self, key: _K, default: _D, /) -> _T | _D: ...
    def keys(self) -> KeysView[_K]: ...
    def values(self) -> ValuesView[_T]: ...
    def items(self) -> ItemsView[_K, _T]: ...
    def clear(self) -> None: ...
    def pop(self, key: _K, default: Any = ..., /) -> _T: ...
    def popitem(self) -> tuple[_K, _T]: ...
    def GetEntryClass(self) -> type[Message]: ...
    def MergeFrom(self, other: Self, /) -> None: ...

@final
class ScalarMap(_MapBase[_K, _T], Generic[_K, _T, _G]):
    """A map field of scalars, text or bytes."""

    def __setitem__(self, key: _K, value: _G, /) -> None: ...
    def setdefault(self, key: _K, value: _G, /) -> _T: ...
    def update(self, values: Any = ..., /, **more: _G) -> None: ...

@final
class MessageMap(_MapBase[_K, _T]):
    """A map field of messages."""

    def get_or_create(self, key: _K, /) -> _T: ...
    def update(self, values: Any = ..., /, **more: Any) -> None: ...

@final
class Snapshot:
    """A message as it is sent."""

@final
class Received:
    """An image as it has come; FromString makes a message of it."""

@final
class alloc:
    """Shared memory to be filled and then assigned to a bytes field, without a copy.

    A buffer; writable until a message has it. ArenaFull.
    """

    def __new__(cls, bytes: int) -> alloc: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def message_classes(
    table: bytes, externals: tuple[type[Message], ...], specs: tuple[Any, ...], /
) -> tuple[type[Message], ...]:
    """The classes of a generated module. ImportError for a table that is not understood."""

def set_message_hooks(
    text: Callable[[Any], str],
    convert: Callable[[Any, Any], None],
    enum: Callable[[tuple[Any, str], str], int],
    decode_error: type[Exception],
    encode_error: type[Exception],
    /,
) -> None:
    """What messages need of Python."""

def snapshot(message: Message, /) -> Snapshot:
    """What is sent of a message: it may be changed afterwards. EncodeError."""

def method_types(request: Any, response: Any, /) -> bytes | None:
    """The fingerprints of a method's messages, from their (de)serializers."""

def method_key(method: str, serializer: Any, deserializer: Any, /) -> Any:
    """What start() takes as the method."""

def image_serializer(serializer: Any, /) -> Any:
    """snapshot for a generated class's SerializeToString, else the same."""

class Disposable:
    """A base class whose objects' `_dispose()` is called when they are dropped.

    Unlike in `__del__`, a KeyboardInterrupt in it is not lost but raised by the next code that can.
    """

@final
class Pump:
    """What one waiter polls: links, listening sockets, deadlines.

    One for all synchronous channels and servers of a process, one per event loop. `spawn(pump)`
    must start a daemon thread that calls `pump.run()`; it is called when something needs a
    background thread. For an event loop's pump it must have another one `guard` the pump.
    """

    threads: int
    background: int
    def __new__(cls, aio: bool = False, spawn: Callable[[Pump], object] | None = None) -> Pump: ...
    def connect(
        self, path: str, agent: str, allow_uids: tuple[int, ...], timeout: float, /
    ) -> Link:
        """A link to the server that listens at `path`, within `timeout` seconds. Blocks.

        Raises OSError whose strerror is a sentence for the user.
        """
    def fileno(self) -> int:
        """The epoll descriptor, for an event loop."""
    def poll(self, events: bool, /) -> bool:
        """One round for an event loop; whether to poll again soon (else watch fileno).

        `events`: fileno is readable.
        """
    def expect(self) -> None:
        """For an event loop: something was posted, an answer is on its way; poll for a while."""
    def run(self) -> None:
        """Be a background thread of this pump until it closes."""
    def watch(self, change: int, /) -> None:
        """Listen for the end of links though no call is open (+1), or no more (-1)."""
    def guard(self, ward: Pump, before: Callable[[], object], /) -> None:
        """Look after an event loop's pump while others wait for what it has handed on.

        `before()` is called before each look, from a background thread.
        """
    def links(self) -> list[Link]: ...
    def settle(self) -> None:
        """Take back what peers have returned: an idle pump does not look until it is needed."""
    def close(self) -> None:
        """Close all links and end the background threads."""

@final
class Link:
    """Shared memory and a socket between this process and another."""

    on_dead: Callable[[], object] | None
    goaway: bool
    dead: bool
    @property
    def alive(self) -> bool:
        """Can calls be started?"""
    def close(self, code: int, why: str, /) -> None:
        """End the link; its calls end with this status."""
    def info(self) -> dict[str, Any]:
        """pid, uid, open_calls, loans, lent_bytes, agent (the peer's), error."""
    def loans(self) -> list[tuple[int, int]]:
        """(bytes, tag) of every open loan."""

class _Call:
    deadline_ns: int
    is_done: bool
    was_cancelled: bool
    got_end: bool
    got_initial: bool
    started: bool
    sent_initial: bool
    max_receive: int
    max_send: int
    details_text: str | None
    entry: Any
    waiter: Any
    user_code: Any
    user_details: Any
    user_trailing: Any
    user_initial: Any
    on_event: Callable[[int], object] | None
    pinned: bool
    """Kept alive until set to False again, though its user drops it."""
    @property
    def code_number(self) -> int | None: ...
    @property
    def method(self) -> str | None: ...
    @property
    def writable(self) -> bool: ...
    def send(self, message: bytes | Snapshot, /) -> bool:
        """Post or queue one message; whether another may follow at once.

        After False, wait for EVENT_WRITABLE before the next one (or the call is over).
        """
    def recv(self) -> bytes | Literal[False] | None:
        """A message, None at the end of the stream or call, False when there is none yet."""
    def next(self) -> bytes | None:
        """Wait for a message; None at the end. Blocks: not for event loops."""
    def wait(self, events: int, timeout: float | None = None, /) -> bool:
        """Wait for one of the events; False on time-out. Blocks: not for event loops."""
    def initial(self, make: Callable[[str, str | bytes], _T], /) -> tuple[_T, ...]:
        """Initial metadata received: a tuple of make(key, value)."""

class ClientCall(_Call):
    """The client's side of a call."""

    def start(
        self,
        channel: Channel,
        link: Link,
        method: Any,
        message: bytes | Snapshot | None,
        metadata: Iterable[tuple[str, str | bytes]] | None,
        deadline_ns: int,
        end: bool,
        background: bool,
        /,
    ) -> None:
        """Post the call, or queue it until there is room.

        `end`: no more messages follow. `background`: nobody may be waiting; a background thread
        looks after it, or, on a loop's pump, it is pinned until it is done. Raises ValueError or
        TypeError for what is no metadata. Failure is a status.
        """
    def prepare(
        self,
        method: Any,
        message: bytes | Snapshot | None,
        metadata: Iterable[tuple[str, str | bytes]] | None,
        deadline_ns: int,
        end: bool,
        /,
    ) -> None:
        """Check and keep what start would, which looks at none of it again.

        For a call that has no link yet: what cannot be sent ends it at once.
        """
    def defer(self, channel: Channel, deadline_ns: int, /) -> None:
        """Let the call be waited for, cancelled and expire before it is started."""
    def half_close(self) -> None: ...
    def cancel_with(self, code: int, details: str, /) -> bool:
        """Give the call up with this status; False when it is over already."""
    def trailing(self, make: Callable[[str, str | bytes], _T], /) -> tuple[_T, ...]:
        """Trailing metadata: a tuple of make(key, value)."""

class ServerCall(_Call):
    """The server's side of a call."""

    def send_initial(self, metadata: Iterable[tuple[str, str | bytes]] | None, /) -> None:
        """Post the initial metadata, once."""
    def finish(
        self,
        code: int,
        details: str | None,
        trailing: Iterable[tuple[str, str | bytes]] | None,
        message: bytes | Snapshot | None,
        /,
    ) -> None:
        """Post the status, with the response of a unary one: the call is over."""
    def cancel_with(self, code: int, /) -> None:
        """End the call as if the client had given it up."""
    def retire(self) -> None:
        """The handler has returned (maximum_concurrent_rpcs)."""
    def link_peer(self) -> tuple[int, int, str]:
        """(pid, uid, user agent) of the client."""

@final
class Server:
    """Accepts links and admits calls."""

    call_type: type[ServerCall]
    types: Callable[[str], bytes | None] | None
    resolve: Callable[[str], tuple[Any, Any, Any] | Literal[False]] | None
    submit: Callable[[Any], object] | None
    may_poll: Callable[[], bool] | None
    on_call: Callable[[Any], object] | None
    conclude: Callable[[Any, int, Any], object] | None
    on_idle: Callable[[], object] | None
    on_cancel: Callable[[Any], object] | None
    allow_uids: tuple[int, ...] | None
    max_running: int
    max_streams: int
    max_receive: int
    max_send: int
    open: int
    running: int
    def __new__(cls, pump: Pump, /) -> Server: ...
    def listen(self, path: str, mode: int, /) -> None:
        """Bind to a unix socket; may be called again. OSError's strerror is a sentence."""
    def start(self) -> None:
        """Accept links and serve calls."""
    def stop(self) -> None:
        """Take no more links and calls; running calls go on."""
    def cancel_all(self) -> None: ...
    def close_links(self) -> None: ...
    def serve_in_pool(self, call: ServerCall, /) -> None:
        """In a pool's thread: run the call, poll on a little."""

@final
class Channel:
    """Picks a link for each call."""

    links: list[Link]
    acquire: Callable[[int, bool], Link] | None
    fail: Callable[[ClientCall], object] | None
    report: Callable[[BaseException, str], object] | None
    refresh: Callable[[], object] | None
    fallback: Callable[[Any, bool, tuple[Any, ...], dict[str, Any] | None], Any] | None
    """fallback(multicallable, with_call, args, kwargs): what makes a blocking unary call while
    there is no link; None: acquire blocks for one."""
    wait_for_ready: bool
    call_type: type[ClientCall]
    max_receive: int
    max_send: int
    def __new__(cls, pump: Pump, /) -> Channel: ...
    def pick(self) -> Link | None:
        """The next live link, or None."""
    def calls(self) -> list[ClientCall]:
        """This channel's open calls; others may share its links."""
    def cancel_all(self, code: int, details: str, /) -> None:
        """End this channel's calls; others may share its links."""

class UnaryUnary:
    """A unary-unary method of a channel; calling it blocks."""

    def __new__(
        cls, channel: Channel, method: str, serializer: Any, deserializer: Any, /
    ) -> UnaryUnary: ...
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any: ...
    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> tuple[Any, ClientCall]: ...
