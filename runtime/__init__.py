"""An RPC transport with gRPC's interfaces: shared memory inside a node, the way chosen by itself."""

from zerohop._native import __version__, stats

__all__ = ["__version__", "stats"]
