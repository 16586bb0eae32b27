"""`python -m cmd_lightning` is the command `cmd-lightning`."""

import sys

from cmd_lightning.cli import main

sys.exit(main())
