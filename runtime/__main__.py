"""``python -m zerohop``."""

import sys

from zerohop.cli import main

if __name__ == "__main__":
    sys.exit(main())
