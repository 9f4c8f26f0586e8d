"""Actors and critics: action distributions, networks, normalisers, and modules as functions of a flat vector."""
