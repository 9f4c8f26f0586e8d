"""The on-policy loop: collect with the current policy, estimate advantages, update, discard."""
