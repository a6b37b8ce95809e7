"""Bounds and borders of the scripts, each from both sides: what mutants of the scripts showed to be
untested elsewhere (`make mutants`)."""
