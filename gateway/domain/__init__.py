"""Pure values of the product. No I/O, no clock, nothing but the standard library."""
