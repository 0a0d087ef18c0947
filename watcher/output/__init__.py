"""The output folder: who owns it, and whether its disk has room."""
