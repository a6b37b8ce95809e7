"""Statements of customers, the roll-forward of what is owed to them in credit, and re-rating."""
