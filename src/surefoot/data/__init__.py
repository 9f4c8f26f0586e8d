"""What is learned from: replay of transitions."""
