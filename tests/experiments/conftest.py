"""The tests' folder on the import path, for helpers that several folders share."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
