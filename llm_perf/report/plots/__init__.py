"""What the pictures of `compare` and `validate` show: panels of `report.figure`. matplotlib loads in `draw` and `style`.

`comparison_figures` draws what ``llm-perf compare --json`` prints, `validation_figures` what ``llm-perf validate --json``
does: nothing is computed here.
"""
