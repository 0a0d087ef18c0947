"""Discovery: which files arrived, and which of them are complete."""
