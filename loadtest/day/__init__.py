"""`make day`: one business day of a company that moves onto the gate, each step checked to the unit."""
