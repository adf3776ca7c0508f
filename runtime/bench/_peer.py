"""A process of a run: ``python -m zerohop.bench._peer ROLE SPEC``, started by the runner.

With the backend grpcio these are plain grpcio programs: ``zerohop run`` takes them as they are.
"""

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any

from zerohop.bench.control import Control
from zerohop.bench.process import prepare

_ROLES = {
    "server": ("server", "serve"),
    "server-asyncio": ("server", "serve_asyncio"),
    "client": ("client", "drive"),
    "client-asyncio": ("client", "drive_asyncio"),
    "client-local": ("local_loops", "drive"),
    "numpy-client": ("inplace", "drive_alone"),
    "watcher": ("client", "watch"),
    "caller": ("client", "be_held"),
    "faulty": ("faults", "misbehave"),
    "zmq-server": ("raw_zmq", "serve"),
    "zmq-client": ("raw_zmq", "drive"),
    "iceoryx2-server": ("raw_iceoryx2", "serve"),
    "iceoryx2-client": ("raw_iceoryx2", "drive"),
}


def busy(control: Control) -> None:
    """Uses a core until the runner has had enough."""

    def wait() -> None:
        while control.receive() is not None:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    control.answer(pid=os.getpid())
    while True:
        pass


def main(arguments: Sequence[str]) -> int:
    role, spec = arguments[0], json.loads(arguments[1])
    control = Control()
    try:
        prepare(spec)
        if role == "busy":
            busy(control)
        module, name = _ROLES[role]
        run: Any = getattr(importlib.import_module(f"zerohop.bench.{module}"), name)
        run(spec, control)
    except Exception as error:
        traceback.print_exc()
        control.answer(failed=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
