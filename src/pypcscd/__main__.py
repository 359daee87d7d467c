"""``python -m pypcscd`` is ``pypcscd``."""

import sys

from pypcscd.cli import main

sys.exit(main())
