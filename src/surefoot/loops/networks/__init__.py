"""Named networks, each with its loss, its step and its target: what off-policy, offline and supervised learning share."""
