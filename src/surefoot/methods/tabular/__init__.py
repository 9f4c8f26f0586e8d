"""Papers on finite and linear MDPs."""
