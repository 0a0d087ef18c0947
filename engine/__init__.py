"""The engine room: from a frame file to the corrected one. Nothing is imported until it is used."""
