"""Claims of the papers on learning from data."""
