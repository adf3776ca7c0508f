"""``python -m zerohop.bench``."""

import sys

from zerohop.bench import main

if __name__ == "__main__":
    sys.exit(main())
