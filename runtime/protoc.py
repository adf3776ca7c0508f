"""`python -m zerohop.protoc -I. --zerohop_out=. echo.proto`: see zerohop.codegen.protoc."""

from __future__ import annotations

import sys

from zerohop.codegen.protoc import main

if __name__ == "__main__":
    sys.exit(main())
