"""Pure values and rules of the product: no I/O, no clock, only the standard library."""
