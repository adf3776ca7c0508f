"""Calls `zerohop.install()` at the moment at which a program has imported grpc.

Nothing of zerohop is imported before that, so that a program without grpc pays nothing. The call
comes inside the import statement, so that `from grpc import server` already gets ours.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as mypy knows it, without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_WATCHED = ("grpc", "zerohop")


class _Finder:
    """Finds nothing itself: it follows the loading of the modules that others find."""

    def __init__(self) -> None:
        self._loading: set[str] = set()
        self.called = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _WATCHED:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    self._follow(name, spec)
                    return spec
        return None

    def _follow(self, name: str, spec: ModuleSpec) -> None:
        loader = spec.loader
        execute: Callable[[ModuleType], object] | None = getattr(loader, "exec_module", None)
        if loader is None or execute is None:
            return

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            self._loading.add(name)
            try:
                execute(module)
            finally:
                self._loading.discard(name)
            self.loaded()

        # On the loader itself, which stays the module's: resources and sources are found by it.
        loader.exec_module = exec_module  # type: ignore[method-assign]

    def loaded(self) -> None:
        """Call install() once grpc is there, but not into the middle of zerohop's own import."""
        if "grpc" not in sys.modules or self._loading or self.called:
            return
        self.called = True
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        try:
            __import__("zerohop.install", fromlist=["install"]).install()
        except Exception as error:
            _complain(error)


def _complain(error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == "zerohop":
        reason = f"it is not installed for {sys.executable}"
    # The program has not asked for us and must not end because of us.
    print(f"zerohop: no short way in this program, it goes on with grpcio: {reason}",
          file=sys.stderr, flush=True)  # fmt: skip


_finder = _Finder()


def watch() -> None:
    """Call `zerohop.install()` when grpc is imported; at once if it is. Once only."""
    if not _finder.called and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
        _finder.loaded()
