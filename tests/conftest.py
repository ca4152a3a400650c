"""Hypothesis' settings for all tests."""

import os

from hypothesis import settings

# No deadline: an example that waits for another worker, or is the first to import NumPy, is not a failure.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() in {"1", "true"} else "default")
