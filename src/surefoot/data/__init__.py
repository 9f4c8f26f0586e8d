"""What is learned from: replay of transitions, tables of samples."""
