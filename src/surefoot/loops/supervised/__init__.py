"""Networks that learn from the rows of a table: epochs over shuffled mini-batches."""
