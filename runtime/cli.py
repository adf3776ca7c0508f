"""The ``zerohop`` command."""

import argparse
from collections.abc import Sequence

from zerohop import __version__


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="zerohop", description="RPC over shared memory, as gRPC.")
    parser.add_argument("--version", action="version", version=f"zerohop {__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0
