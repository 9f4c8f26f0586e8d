"""The claim of PROPS: its quick fit of the last layer is the library's."""

from __future__ import annotations

from typing import Any

import torch

from surefoot.claims.control.props import quick_sampling_error
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.props import PROPS
from surefoot.methods.control.props.adaptive_sampling import sampling_error


def test_the_quick_sampling_error_is_the_same():
    batches: list[Any] = []

    class Spying(PROPS):
        def update(self, learner, batch):
            batches.append(batch)
            return {}

    method = Spying(num_envs=2, num_steps=16, minibatch_size=16, hidden=(8, 4), behaviour_learning_rate=0.01)
    learner = make_learner(method, "Pendulum-v1", [0, 1], 10**6)
    for _ in range(2):
        learner.iterate()
    learner.close()
    quick = quick_sampling_error(learner, batches[-1], steps=50)
    assert (quick > 1e-3).all()
    torch.testing.assert_close(quick, sampling_error(learner.model, learner.vector, batches[-1], steps=50))
