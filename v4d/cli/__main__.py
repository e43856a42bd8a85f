"""`python -m v4d.cli` is the command `v4d`."""

import sys

from v4d.cli import main

sys.exit(main())
