"""Collect → estimate → update: the loops that methods run in, their checkpoints and logs."""
