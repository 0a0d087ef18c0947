"""Images as arrays: axes, normalisation, hot pixels, tiles, arrays on disk."""
