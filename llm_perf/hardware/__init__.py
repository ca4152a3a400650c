"""Time of one thing on one resource: a product, an attention kernel, a collective, a copy, a disk read."""
