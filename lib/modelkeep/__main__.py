"""`python -m modelkeep`: the command of the same name."""

import sys

from modelkeep.cli import main

sys.exit(main())
