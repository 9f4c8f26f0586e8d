"""Offline loops: named networks learn from a data set; an environment is needed at most to evaluate them."""
