"""One model from a step or a foreign directory into memory, through the gate."""
