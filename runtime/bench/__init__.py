"""``zerohop bench``: zerohop, grpcio and others side by side, in slices of one run.

Nothing is imported here: the processes that are measured import this package too.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``zerohop bench``; returns its exit code."""
    from zerohop.bench.cli import main as command

    return command(argv)
