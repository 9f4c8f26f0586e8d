"""Policies of finite MDPs as tables."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.envs.tabular.mdp import TabularMDP


def uniform_policy(mdp: TabularMDP) -> Tensor:
    """The policy `[S, A]` under which all legal actions of a state are equally likely."""
    return mdp.allowed.double() / mdp.allowed.sum(-1, keepdim=True)


def greedy(mdp: TabularMDP, q: Tensor) -> Tensor:
    """The policy `[..., S, A]` that takes the best legal action in each state; the first, in case of a tie."""
    allowed = q if mdp.legal is None else torch.where(mdp.legal, q, -torch.inf)
    return torch.nn.functional.one_hot(allowed.argmax(-1), mdp.actions).double()
