"""Training: frameworks that people train with, and the model of one optimizer step that they share.

One model of the step; the frameworks are data beside it (YAML files of constants with their sources).
"""
