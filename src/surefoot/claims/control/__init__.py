"""Claims of the control papers."""
