"""What the topics hold, in one SQLite file."""
