"""Fitted Q evaluation: what a policy is worth, from data alone.

    minimise  mean (Q(s, a) − r − γ·Q⁻(s', π(s')))²        value = mean over first states of Q(s, π(s))

Hoang M. Le, Cameron Voloshin, Yisong Yue, *Batch Policy Learning under Constraints* (2019), arXiv:1903.08738. The
target Q⁻ is copied from Q every 100 steps, as in d3rlpy. The interval is of a bootstrap: every member learns from
episodes that are drawn anew, with replacement (Botao Hao et al., 2021, arXiv:2102.03607). It speaks of the data's
chance, not of what the data do not cover: where the policy does what nobody did, Q is a guess, and no interval knows.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from surefoot.data.files import dataset
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.evaluate.agent_card import keep_result
from surefoot.evaluate.player import load
from surefoot.hyperparameters import check_count
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import Run
from surefoot.loops.networks.nets import Batch, Function, Net, Weights, gradient_step
from surefoot.models.actors import CriticNetwork
from surefoot.models.functional import initial, over_seeds
from surefoot.models.saved import holds_agent
from surefoot.objectives.bootstrap import bootstrapped
from surefoot.seeding import numpy_stream, torch_stream

BLOCK, SPREAD = 4096, 1e-3  # states whose actions are asked for at once; added to a standard deviation
COVERAGE = 0.95


def fitted_q(
    policy: Any,
    data: Transitions,
    *,
    gamma: float = 0.99,
    steps: int = 3000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    hidden: tuple[int, ...] = (128, 128),
    copy_every: int = 100,
    members: int = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """The discounted value of a policy's deterministic actions from the first states of the data.

    `value` is the mean of the members', `value_interval` is Student's with their standard deviation, `behaviour_value`
    the mean discounted return of the data's own episodes, and `distance` the mean distance of the policy's actions from
    those in the data, in deviations of these.

    Raises:
        UsageError: actions are not continuous, or a number is out of range.
    """
    for name, number in (
        ("steps", steps),
        ("members", members),
        ("batch_size", batch_size),
        ("copy_every", copy_every),
    ):
        check_count(name, number)
    if not 0 <= gamma < 1:
        raise UsageError(f"gamma={gamma!r} is not allowed; fitted Q evaluation needs a number in [0, 1).")
    if data.discrete:
        raise UsageError(f"{data.name} has discrete actions; fitted Q evaluation needs continuous ones.")
    if data.episodes < 2:
        warnings.warn("the data have a single episode, so the interval says nothing.", stacklevel=2)
    mean, deviation = data.scale()
    centre, width = data.action.mean(0), data.action.std(0) + SPREAD
    first = data.bounds[:, 0]

    def seen(x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(((x - mean) / (deviation + SPREAD)).astype(np.float32))

    def done(x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(((x - centre) / width).astype(np.float32))

    taken, following = data.action, _acted(policy, data.next_observation)
    columns = {"observation": seen(data.observation), "action": done(taken), "reward": torch.from_numpy(data.reward)}
    columns |= {"next_observation": seen(data.next_observation), "next_action": done(following)}
    columns["discount"] = gamma * torch.from_numpy(~data.terminated).float()
    space = gym.spaces.Box(-1, 1, taken.shape[1:], np.float32)
    network = CriticNetwork(hidden)
    net = Net(lambda: network.make(data.observation_space, space), _loss, learning_rate, target_rate=1.0)
    functions = {"critic": Function(net)}
    weights = {"critic": torch.stack([initial(net.make, torch_stream(seed, "members", m)) for m in range(members)])}
    targets, adams = {"critic": weights["critic"].clone()}, {"critic": Adam.start(weights["critic"])}
    step = over_seeds(gradient_step({"critic": net}, functions, ("critic",)), members)
    drawn = [numpy_stream(seed, "episodes", m).integers(0, data.episodes, data.episodes) for m in range(members)]
    rows = [np.concatenate([np.arange(*data.bounds[i]) for i in which]) for which in drawn]
    streams = [numpy_stream(seed, "rows", m) for m in range(members)]
    with torch.no_grad():
        for number in range(steps):
            index = torch.from_numpy(np.stack([r[g.integers(0, len(r), batch_size)] for r, g in zip(rows, streams)]))
            weights, adams, _ = step(weights, targets, adams, {name: x[index] for name, x in columns.items()})
            if (number + 1) % copy_every == 0:
                targets["critic"].copy_(weights["critic"])
        begin = seen(data.observation[first]), done(_acted(policy, data.observation[first]))
        values = over_seeds(lambda w: functions["critic"](w, *begin), members)(weights["critic"])
    each = np.array([float(v[torch.from_numpy(which)].mean()) for v, which in zip(values, drawn, strict=True)])
    half = student.ppf((1 + COVERAGE) / 2, members - 1) * each.std(ddof=1) if members > 1 else np.nan
    value = float(each.mean())
    return {
        "value": value,
        "value_interval": [value - half, value + half] if members > 1 else None,
        "members": each.tolist(),
        "behaviour_value": float(np.mean(_discounted(data, gamma))),
        "distance": float(np.abs((_acted(policy, data.observation) - taken) / width).mean()),
        "gamma": gamma,
        "episodes": data.episodes,
        "data": data.name,
        "fingerprint": data.digest(),
    }


def evaluated(policy: Any, data: Any, seed: int = 0) -> dict[str, Any] | None:
    """The figures of `fitted_q` for an agent of an environment, a run or its folder, with `table`, the same to read;
    kept in the folder of a run as `fitted-q.json`. None for a model that does not act."""
    place = policy.path if isinstance(policy, Run) else policy
    player = load(place) if isinstance(place, str | Path) else place
    if getattr(player, "loop", "on-policy") != "on-policy":
        return None
    folder = Path(place) if isinstance(place, str | Path) and not holds_agent(Path(place)) else None
    given = {} if folder is None else Run(folder).config.get("hyperparameters", {})
    gamma = {"gamma": given["gamma"]} if "gamma" in given else {}
    figures = fitted_q(player, dataset(data), seed=seed, **gamma)
    if folder is not None:
        keep_result(folder, "fitted-q", json.dumps(figures, indent=2))
    return figures | {"table": told(figures)}


def _loss(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The squared Bellman error of the policy that is evaluated."""
    target = bootstrapped(
        batch["reward"], batch["discount"], w.target("critic", batch["next_observation"], batch["next_action"])
    )
    loss = ((w("critic", batch["observation"], batch["action"]) - target) ** 2).mean()
    return loss, {"critic_loss": loss.detach()}


def _acted(policy: Any, observation: NDArray[Any]) -> NDArray[Any]:
    """The policy's deterministic actions `[rows, dim]`."""
    blocks = np.array_split(observation, -(-len(observation) // BLOCK))
    acted = [np.asarray(policy.predict(block, deterministic=True)[0]) for block in blocks]
    return np.concatenate(acted).reshape(len(observation), -1)


def _discounted(data: Transitions, gamma: float) -> list[float]:
    """The discounted return of every episode."""
    return [float(gamma ** np.arange(past - first) @ data.reward[first:past]) for first, past in data.bounds]


def told(figures: dict[str, Any]) -> str:
    """The figures in words."""
    interval = figures["value_interval"]
    said = "" if interval is None else f"  {COVERAGE:.0%} interval [{interval[0]:.4g}, {interval[1]:.4g}]"
    return "\n".join(
        [
            f"{figures['data']} · fitted Q evaluation, {figures['episodes']:,} first states, γ = {figures['gamma']:g}",
            f"discounted value {figures['value']:.4g}{said}",
            f"the data's own {figures['behaviour_value']:.4g} (discounted returns of their episodes)",
            f"the policy's actions are {figures['distance']:.2g} deviations from the data's in the mean; where they "
            "are far from all of them, the value is a guess",
        ]
    )
