"""What this machine is, and microbenchmarks: how long one thing takes on it, measured until it is known or the budget ends.

One module per kind of thing. Each lists items; `calibrate.probe.suite` gives every item its share of the budget and
writes all samples, with the environment, into one JSON file. `calibrate.fit.kernels` makes rates of them.
"""
