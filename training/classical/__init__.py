"""Deconvolution without learning, told the PSF: numpy and scikit-image only."""
