"""Runs at the start of each Python program under `zerohop run`, which puts this folder first.

It watches for the import of grpc, and then lets the program's own sitecustomize run, which this
one hides. Written for any Python: a program may start others, older ones too. No functions and
few names, because it runs before everything else.
"""

import os
import sys

if sys.version_info >= (3, 11) and os.environ.get("ZEROHOP_RUN") == "1":
    __import__("zerohop_autoload").watch()

_here = os.path.dirname(os.path.abspath(__file__))
_ours = sys.modules.pop("sitecustomize")
sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != _here]
try:
    __import__("sitecustomize")  # the next one on the path
except ImportError as error:
    if getattr(error, "name", "sitecustomize") != "sitecustomize":
        raise
finally:
    sys.modules.setdefault("sitecustomize", _ours)
