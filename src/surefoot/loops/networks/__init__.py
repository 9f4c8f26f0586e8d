"""Named networks, each with its loss, its step and its target: what several kinds of learning share."""
