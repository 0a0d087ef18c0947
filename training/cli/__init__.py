"""Command lines of training."""
