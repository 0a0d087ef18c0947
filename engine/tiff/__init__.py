"""TIFF: reading one, proving it whole, writing it back."""
