"""`python -m modelkeep`: the command of the same name."""

import sys

from modelkeep.cli.main import main

sys.exit(main())
