"""``python -m lsfm_core.cli``."""

import sys

from lsfm_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
