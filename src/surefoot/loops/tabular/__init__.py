"""The loop of methods on finite MDPs, and the parts that several methods share."""
