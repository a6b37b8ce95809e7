"""One file for each sink."""
