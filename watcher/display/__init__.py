"""Displays: events as lines for people or as JSON."""
