"""Methods for control: policies for environments."""
