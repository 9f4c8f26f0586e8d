"""A reward model: scores of answers whose differences explain which of two answers people prefer.

    loss = s(−(r_w − r_l − m)) + c·(r_w + r_l)²        s(u) = log(1 + e^u),  P(y_w preferred) = σ(r_w − r_l)

The network is a language model, and r is linear in its last hidden state at the end of an answer. The margin m is the
column `margin` of a pair, if it has one: how much better the chosen answer is, in units of r. Scores are defined up to
a constant, which the second term puts near 0. The agent of a run is a folder that transformers and TRL load as a
sequence classifier, and that rewards a run here: `--reward reward-model:FOLDER`.

Bradley and Terry (1952); Paul F. Christiano et al., *Deep Reinforcement Learning from Human Preferences* (2017),
arXiv:1706.03741; margins after arXiv:2307.09288, the pull towards 0 after arXiv:2312.09244.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.loops.group_rollout.scoring import Scoring


@dataclass(frozen=True)
class RewardModelling(Scoring):
    """Bradley-Terry scores by maximum likelihood, by one head or an ensemble."""


METHOD = RewardModelling
