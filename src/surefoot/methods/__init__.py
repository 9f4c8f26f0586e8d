"""One module per paper: its hyperparameters, and the steps in which it differs from its loop."""
