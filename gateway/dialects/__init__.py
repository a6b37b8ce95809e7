"""Dialects: a provider's API as facts. `base` says what a dialect is; one file for each."""
