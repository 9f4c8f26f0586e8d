"""Collect, estimate, update: one package for each kind of loop, and `common` for what serves all of them."""
