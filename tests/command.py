"""The command that tests start as a process: of this source, or an installed one that `$CORTEX_UNDER_TEST` names."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
INSTALLED = os.environ.get("CORTEX_UNDER_TEST")
CORTEX = (INSTALLED,) if INSTALLED else (sys.executable, "-m", "cortex")
SOURCE = {} if INSTALLED else {"PYTHONPATH": str(ROOT)}
"""Of its environment, so that it is this source wherever it is started."""
