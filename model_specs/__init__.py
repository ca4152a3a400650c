"""Model architectures as YAML: data, no code."""
