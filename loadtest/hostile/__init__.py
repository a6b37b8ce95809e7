"""Attacks on a running gate, and what they cost everybody else (`make hostile`)."""
