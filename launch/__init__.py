"""The processes of a run. Imported first in each of them, so it settles where Cohort's packages are found."""

import sys
from pathlib import Path

# Their names are common ones: they come before a user's rewards.py or configs/ in the working directory.
_ROOT = str(Path(__file__).resolve().parents[1])
sys.path[:] = [_ROOT, *(path for path in sys.path if path != _ROOT)]
