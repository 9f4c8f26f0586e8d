"""Methods that learn from preferences: which of two answers was chosen."""
