"""Claims of the papers on supervised learning."""
