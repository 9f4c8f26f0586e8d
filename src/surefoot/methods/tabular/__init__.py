"""Methods for finite and linear MDPs."""
