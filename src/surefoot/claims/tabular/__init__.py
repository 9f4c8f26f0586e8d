"""Claims of the papers on finite and linear MDPs."""
