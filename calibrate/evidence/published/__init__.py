"""Published measurements that ship with the project, and the one that is nearest to a prediction.

The tables are ``measurements/published_inference.csv`` and ``published_training.csv``; the README beside
them says what each column means, how each source defines its throughput and how far it is to be trusted.
Reading brings the rows to one vocabulary: seconds, bytes, tokens of the whole deployment, canonical names.
It needs the standard library alone: a prediction that names its nearest measurement pays for it.
"""

from __future__ import annotations

from calibrate.evidence.published.inference_rows import parse_inference
from calibrate.evidence.published.names import GPU_ALIASES, SYSTEM_ALIASES
from calibrate.evidence.published.neighbours import MAX_DISTANCE, Asked, distance, nearest_measurement
from calibrate.evidence.published.records import Machine, Measurement, Policy, Source, TrainingMeasurement
from calibrate.evidence.published.tables import load_measurements, measurements_of
from calibrate.evidence.published.training_rows import parse_training

__all__ = [
    "GPU_ALIASES",
    "MAX_DISTANCE",
    "SYSTEM_ALIASES",
    "Asked",
    "Machine",
    "Measurement",
    "Policy",
    "Source",
    "TrainingMeasurement",
    "distance",
    "load_measurements",
    "measurements_of",
    "nearest_measurement",
    "parse_inference",
    "parse_training",
]
