"""What sources say about their runs."""
