"""Language: policies that write."""
