"""GPUs, hosts and calibrated profiles as YAML: data, no code."""
