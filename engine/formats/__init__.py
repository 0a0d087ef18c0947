"""Formats besides TIFF: what microscopes' own programs write is read here; the output is an OME-TIFF."""
