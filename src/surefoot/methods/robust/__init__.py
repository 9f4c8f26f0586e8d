"""Methods for policies that hold under attack and under shift."""
