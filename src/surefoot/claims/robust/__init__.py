"""Claims of the papers on robust control."""
