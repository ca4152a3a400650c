"""Constants of a stack from what was seen of its endpoint: rows, the model that predicts them, the fit, and what to run next."""
