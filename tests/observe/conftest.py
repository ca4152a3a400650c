"""The stub server, for tests that are imported without a package."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
