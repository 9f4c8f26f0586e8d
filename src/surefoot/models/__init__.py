"""Who acts and who judges: action distributions, networks, normalisers, and modules as functions of a flat vector."""
