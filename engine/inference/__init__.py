"""Inference: a model opened in a backend, and arrays restored with it."""
