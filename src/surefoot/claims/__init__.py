"""The papers' headline claims as experiments with a verdict; a refuted one stays, as refuted."""
