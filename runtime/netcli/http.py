"""HTTP/1.1 for files, on a stack: GET and HEAD, ranges, keep-alive.

h11 reads requests and frames responses. The bytes of a file go out of its mapping by reference: a
response is its head and the mapping, sent as one, and the mapping lives until it is acknowledged.
"""

from __future__ import annotations

import contextlib
import email.utils
import mimetypes
import mmap
import os
import re
import stat
import urllib.parse
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import h11

if TYPE_CHECKING:
    from zerohop.transport.net import Socket, Stack

Headers = list[tuple[str, str]]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_MAX_HEAD = 16384


class Status(Exception):
    """An answer other than the file."""

    def __init__(self, code: int, headers: Headers | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.headers = headers or []


class Found(NamedTuple):
    """What is to be sent."""

    code: int
    headers: Headers
    body: memoryview


_REASONS = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    416: "Range Not Satisfiable",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


# --- files ------------------------------------------------------------------------------------


def resolve(root: str, target: str) -> str:
    """The file that a request's target means; `root` is a real path. Status where there is none.

    What lies outside the root, by ".." or by a symbolic link, is not found.
    """
    parts = urllib.parse.urlsplit(target)
    if not parts.path.startswith("/"):
        raise Status(400)
    path = urllib.parse.unquote_to_bytes(parts.path)
    if b"\0" in path:
        raise Status(400)
    full = os.path.realpath(os.path.join(os.fsencode(root), path.lstrip(b"/")))
    if full != os.fsencode(root) and not full.startswith(os.fsencode(root.rstrip("/") + "/")):
        raise Status(404)
    if os.path.isdir(full):
        full = os.path.join(full, b"index.html")
    return os.fsdecode(full)


def select(value: str | None, size: int) -> tuple[int, int] | None:
    """(start, end) of a Range; None where all is to be sent. Status(416) for what is not there.

    What makes no sense, other units and several ranges are ignored: RFC 9110 section 14.2.
    """
    match = _RANGE.match(value.strip()) if value else None
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        last = min(int(match[2]), size)
        if last == 0:
            raise Status(416, [("Content-Range", f"bytes */{size}")])
        return size - last, size
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    if start >= size:
        raise Status(416, [("Content-Range", f"bytes */{size}")])
    return start, end


def find(root: str, target: str, headers: dict[bytes, bytes]) -> Found:
    """The file, or a part of it."""
    path = resolve(root, target)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        raise Status(404) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Status(404)
        modified = email.utils.formatdate(status.st_mtime, usegmt=True)
        if headers.get(b"if-modified-since", b"").decode("latin-1") == modified:
            raise Status(304, [("Last-Modified", modified)])
        wanted: str | None = headers.get(b"range", b"").decode("latin-1")
        if headers.get(b"if-range", modified.encode()).decode("latin-1") != modified:
            wanted = None  # RFC 9110 section 13.1.5
        part = select(wanted, status.st_size)
        start, end = part or (0, status.st_size)
        body = memoryview(b"")
        if status.st_size:
            body = memoryview(mmap.mmap(fd, status.st_size, prot=mmap.PROT_READ))[start:end]
    finally:
        os.close(fd)
    answer = [
        ("Content-Type", mimetypes.guess_type(path)[0] or "application/octet-stream"),
        ("Last-Modified", modified),
        ("Accept-Ranges", "bytes"),
    ]
    if part:
        answer.append(("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}"))
    return Found(206 if part else 200, answer, body)


# --- connections ------------------------------------------------------------------------------


class Connection:
    """One client's. `Stack.run` calls `ready`; nothing here waits."""

    def __init__(self, socket: Socket, root: str) -> None:
        self._socket = socket
        self._root = root
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._waiting: deque[tuple[bytes, memoryview]] = deque()
        self._ended = False
        """Nothing more is sent; what the client says is thrown away until it ends too."""

    def ready(self, socket: Socket, what: int) -> None:
        try:
            self._send()
            while not self._waiting:
                views = socket.recv_views()
                for view in views:
                    if not self._ended:
                        self._http.receive_data(view)  # type: ignore[arg-type]
                if not views and not self._ended:
                    self._http.receive_data(b"")
                if not self._ended:
                    self._serve()
                if not views:
                    socket.close()
                    return
        except BlockingIOError:
            pass
        except OSError:  # reset, timed out
            socket.close()

    def _serve(self) -> None:
        while not self._ended:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                self._answer(event)
            elif isinstance(event, h11.ConnectionClosed):
                self._end()
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.MUST_CLOSE:
                    self._end()
                    return
                self._http.start_next_cycle()

    def _answer(self, request: h11.Request) -> None:
        try:
            if request.method not in (b"GET", b"HEAD"):
                raise Status(405, [("Allow", "GET, HEAD")])
            target = request.target.decode("latin-1")
            if target.startswith(("http://", "https://")):  # RFC 9112 section 3.2.2
                target = urllib.parse.urlsplit(target).path or "/"
            found = find(self._root, target, dict(request.headers))
            code, headers, body = found
        except Status as status:
            code, headers = status.code, status.headers
            text = b"" if code == 304 else f"{code} {_REASONS[code]}\n".encode()
            body = memoryview(text)
            if text:
                headers.append(("Content-Type", "text/plain"))
        if code != 304:
            headers.append(("Content-Length", str(len(body))))
        self._reply(code, headers, memoryview(b"") if request.method == b"HEAD" else body)

    def _refuse(self, code: int) -> None:
        """An answer to what is no request; then the end."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = f"{code} {_REASONS.get(code, 'Bad Request')}\n".encode()
            headers = [("Content-Length", str(len(text))), ("Connection", "close")]
            self._reply(code, headers, memoryview(text))
        self._end()

    def _reply(self, code: int, headers: Headers, body: memoryview) -> None:
        reason = _REASONS.get(code, "")
        headers = [("Date", email.utils.formatdate(usegmt=True)), *headers]
        head = self._http.send(h11.Response(status_code=code, headers=headers, reason=reason))
        if len(body):
            # h11 counts the bytes, and hands back what it was given.
            self._http.send_with_data_passthrough(h11.Data(data=body))  # type: ignore[arg-type]
        self._http.send(h11.EndOfMessage())
        self._waiting.append((head or b"", body))
        self._try_send()

    def _send(self) -> None:
        while self._waiting:
            self._socket.sendmsg(self._waiting[0])
            self._waiting.popleft()
        if self._ended:
            self._socket.shutdown(1)

    def _end(self) -> None:
        self._ended = True
        self._try_send()

    def _try_send(self) -> None:
        with contextlib.suppress(BlockingIOError):  # told of when there is room
            self._send()


def listen(stack: Stack, port: int, root: str) -> None:
    """Serve the files under `root`."""
    import socket as kernel

    real = os.path.realpath(root)
    if not os.path.isdir(real):
        raise ValueError(f"--root {root}: there is no such folder")
    listener = stack.socket(kernel.AF_INET6)
    listener.bind(("", port))
    listener.listen(1024)

    def accept(_: Socket, what: int) -> None:
        while True:
            try:
                peer = listener.accept()
            except BlockingIOError:
                return
            peer.setsockopt(kernel.IPPROTO_TCP, kernel.TCP_NODELAY, 1)
            peer.setsockopt(kernel.SOL_SOCKET, kernel.SO_KEEPALIVE, 1)
            connection = Connection(peer, real)
            peer.on_ready = connection.ready
            connection.ready(peer, peer.ready)

    listener.on_ready = accept
