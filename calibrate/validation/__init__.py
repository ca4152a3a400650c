"""Predictions beside published runs: one row, the statistics of many, and what simpler predictors say of them.

``calibrate.validate`` puts the parts together.
"""
