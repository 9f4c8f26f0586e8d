"""What off-policy and offline learning share: named networks, each with its loss, its step and its target."""
