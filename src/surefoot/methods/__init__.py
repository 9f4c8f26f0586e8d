"""One file a paper: its hyperparameters, and the steps in which it differs from its loop."""
