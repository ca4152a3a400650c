"""From measurements to a profile: kernels' rates by size, a few end-to-end parameters, and how far to trust them.

calibrator = Calibrator(microbench=record).fit(runs)
calibrator.profile_            # what --profile takes
calibrator.score(other_runs)   # median absolute error of runs that were left out
"""

from calibrate.fit.calibrator import Calibrator
from calibrate.fit.observation import Observation
from calibrate.fit.runs import read_runs

__all__ = ["Calibrator", "Observation", "read_runs"]
