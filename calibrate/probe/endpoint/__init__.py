"""An OpenAI-compatible endpoint seen from outside: requests sent, and when each token of their answers arrived."""
