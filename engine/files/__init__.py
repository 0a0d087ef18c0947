"""Files: what is to be read, which version of it, and how an output is committed."""
