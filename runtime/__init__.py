"""An RPC transport with gRPC's interfaces; inside a node, over shared memory."""

from zerohop._native import __version__, stats

__all__ = ["__version__", "stats"]
