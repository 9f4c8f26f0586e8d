"""Control: policies for environments."""
