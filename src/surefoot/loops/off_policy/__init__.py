"""Off-policy loops: act, keep the transitions, update named networks from a replay of them."""
