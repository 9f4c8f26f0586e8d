"""Methods for robust control: policies for environments whose physics shifts or is attacked."""
