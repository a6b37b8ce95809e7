"""The story that `creditgate demo` runs: a customer and an operator on a real gate."""
