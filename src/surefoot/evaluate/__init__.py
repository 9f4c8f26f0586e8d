"""How good, how sure, how sturdy: evaluation, stress tests, statistics, comparisons, reports."""
