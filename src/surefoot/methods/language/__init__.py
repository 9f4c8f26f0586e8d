"""Language: policies that write. `GroupPolicyGradient(objective=…)` makes a method of any objective."""

from surefoot.methods.language.own import GroupPolicyGradient

__all__ = ["GroupPolicyGradient"]
