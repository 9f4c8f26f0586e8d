"""Games between agents and adversaries that perturb what they see or do, with populations of both."""
