"""What serves every kind of loop: runs, the outer loop, checkpoints, logs, processes, compilation, the optimiser."""
