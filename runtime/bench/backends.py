"""What can be measured: how each backend is loaded, addressed, and found missing.

A backend is imported by the process that is measured: a missing one costs its rows only.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEFAULT_LIMIT = 4 << 20
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

_MODULES = {"grpcio": "grpc", "zerohop": "zerohop", "iceoryx2": "iceoryx2", "zmq": "zmq"}
_PACKAGES = {"grpcio": "grpcio", "iceoryx2": "iceoryx2", "zmq": "pyzmq"}
NAMES = tuple(_MODULES)


def load(name: str) -> Any:
    """The module that has grpcio's interface: ``server``, ``insecure_channel``."""
    return importlib.import_module(_MODULES[name])


def interface(spec: Mapping[str, Any]) -> tuple[Any, Any]:
    """The modules with the messages and with the stubs and servicers, stock or generated."""
    names = ("bench_zerohop",) * 2 if spec.get("generated") else ("bench_pb2", "bench_pb2_grpc")
    messages, stubs = map(importlib.import_module, names)
    return messages, stubs


def load_aio(name: str) -> Any:
    """The same for asyncio."""
    return importlib.import_module(_MODULES[name] + ".aio")


def options(size: int) -> tuple[tuple[str, int], ...]:
    """Options of channels and servers, alike for both: none, unless grpcio's limit is too low."""
    return _UNLIMITED if size >= _DEFAULT_LIMIT else ()


def address(name: str, folder: Path, server: str) -> str:
    """Where a server of that name listens: a socket in the run's own folder."""
    scheme = {"grpcio": "unix", "zmq": "ipc"}.get(name, "shm")
    separator = "://" if scheme == "ipc" else ":"
    return f"{scheme}{separator}{folder / server}.{name}.sock"


def missing(name: str) -> str | None:
    """Why this backend cannot be measured here, or None."""
    if name == "zerohop":
        return _zerohop_missing(("server", "insecure_channel"))
    if importlib.util.find_spec(_MODULES[name]) is None:
        return f"not installed (pip install {_PACKAGES[name]})"
    return None


def run_missing() -> str | None:
    """Why ``zerohop run`` cannot be measured here, or None."""
    return _zerohop_missing(("install",))


def _zerohop_missing(names: tuple[str, ...]) -> str | None:
    try:
        module = load("zerohop")
        absent = [name for name in names if not hasattr(module, name)]
    except ImportError as error:
        return f"cannot be imported: {error}"
    return f"this build has no {', '.join(absent)}" if absent else None
