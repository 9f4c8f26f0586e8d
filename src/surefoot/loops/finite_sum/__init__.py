"""Linear models whose objective is a risk of finitely many losses, by solvers that know every sample."""
