"""Command lines of the engine, and what all command lines share."""
