"""The loggers of zerohop. `ZEROHOP_LOG` is to zerohop what GRPC_TRACE is to gRPC.

`ZEROHOP_LOG=info` (or debug, warning, error) writes the messages of that level to standard error,
whatever the program does with logging; `ZEROHOP_LOG=debug:channel,registry` only those of some
parts.
"""

from __future__ import annotations

import logging
import os

ROOT = "zerohop"


def logger(part: str) -> logging.Logger:
    """The logger of a part: channel, server, registry, link, run."""
    return logging.getLogger(f"{ROOT}.{part}")


def configure(setting: str | None = None) -> None:
    """Honour ZEROHOP_LOG; called once, at import."""
    setting = os.environ.get("ZEROHOP_LOG", "") if setting is None else setting
    if not setting:
        return
    level_name, _, parts = setting.partition(":")
    level = logging.getLevelName(level_name.upper())
    if not isinstance(level, int):
        logger("log").warning(
            "ZEROHOP_LOG=%s: the level is one of debug, info, warning, error", setting
        )
        return
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(process)d %(name)s: %(message)s", "%H:%M:%S")
    )
    for name in parts.split(",") if parts else [""]:
        target = logger(name) if name else logging.getLogger(ROOT)
        target.setLevel(level)
        target.addHandler(handler)
        target.propagate = False
