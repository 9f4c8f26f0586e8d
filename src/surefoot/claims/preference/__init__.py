"""Claims of papers on learning from preferences."""
