"""What all kinds of loops share: runs, the outer loop, checkpoints, logs, processes, compilation, the optimiser."""
