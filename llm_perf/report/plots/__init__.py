"""What the pictures of `compare` and `validate` show, as panels of `report.figure`; `draw` and `style` know matplotlib.

`comparison_figures` draws what ``llm-perf compare --json`` prints, `validation_figures` what ``llm-perf validate --json``
does: nothing is computed here.
"""
