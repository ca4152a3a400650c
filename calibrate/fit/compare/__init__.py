"""Measured runs beside their predictions: ``llm-perf compare``.

`inputs` reads runs in any form, `runs` predicts each and lays the figures beside one another.
"""
