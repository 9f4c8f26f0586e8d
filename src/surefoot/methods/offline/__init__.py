"""Methods that learn from data, without acting."""
