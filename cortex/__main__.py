"""`python -m cortex` is the `cortex` command."""

import sys

from cortex.cli import main

sys.exit(main())
