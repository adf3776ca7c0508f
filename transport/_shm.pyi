from typing import Any, Protocol

from cffi import FFI

class _Lib(Protocol):
    def zh_version(self) -> Any: ...
    def zh_stats_read(self, out: Any, /) -> None: ...

ffi: FFI
lib: _Lib
