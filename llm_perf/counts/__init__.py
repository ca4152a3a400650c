"""Facts of shapes alone: parameters, FLOPs, bytes. No hardware, no time. Numbers and NumPy arrays alike."""
