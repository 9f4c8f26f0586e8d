"""Methods of supervised learning that hold under shifts of the data."""
