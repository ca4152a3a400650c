"""Predicted against measured as pictures: PNG to look at, SVG to print. matplotlib is loaded only here.

`comparison_figures` draws what ``llm-perf compare --json`` prints, `validation_figures` what ``llm-perf validate --json``
does: nothing is computed here.
"""
