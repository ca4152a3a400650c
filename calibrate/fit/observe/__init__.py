"""Constants of a stack from its endpoint: observed rows, the model that predicts them, the fit, and what to run next."""
