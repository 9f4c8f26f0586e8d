"""The loop of methods on finite MDPs, and the parts that several of them use."""
