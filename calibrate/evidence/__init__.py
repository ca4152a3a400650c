"""What was measured: runs of served engines, read from files or watched, in one typed record."""
