"""The model file and what it says of itself; the default model."""
