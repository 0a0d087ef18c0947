"""Evaluation: metrics, the suite, the compared methods, the tables."""
