"""Comparing an exported file with its agent: the file is read back and played beside the agent, state by state, both
with the agent's memory and the same noise."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from surefoot.envs import make_single
from surefoot.envs.names import remember
from surefoot.errors import UsageError, message_of
from surefoot.evaluate.foreign_modules import load_script
from surefoot.evaluate.foreign_onnx import OnnxPolicy
from surefoot.evaluate.foreign_signature import Fixed
from surefoot.evaluate.rollout import Episode, episode_seeds, play_all
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.models.agent import Agent
from surefoot.models.deployed import (
    GUMBEL,
    NEXT,
    NOISE,
    SEEN_NOISE,
    Deployed,
    DeployedTable,
    Port,
    entries_of,
    port_name,
)
from surefoot.models.distributions import IMPOSSIBLE, Categorical, Gaussian, for_space
from surefoot.models.smoothing import moved
from surefoot.models.spaces import MASK_KEY
from surefoot.models.tabular_agent import TabularAgent
from surefoot.seeding import numpy_stream, torch_stream

ROWS = 20  # states compared at once
TOLERANCE = 1e-4  # largest difference allowed, relative to 1 + the size of the numbers

Batch = tuple[dict[str, np.ndarray], np.ndarray]  # entries of observations [rows, ...], and where episodes start


class Differences(NamedTuple):
    """How far a file is from the agent, over all states compared."""

    action: float  # largest |file − agent| of a continuous action
    parameters: float  # the same of the distribution's parameters, or of the memory
    other_actions: int  # discrete actions that differ, each where two scores are equal up to the tolerance


class _EnoughError(Exception):
    """There are enough states."""


def states_of(agent: Any, env: Any, states: int, trust: bool) -> tuple[list[Batch], int, str]:
    """Batches of `ROWS` states, first those of the environment; how many these are, and why there are none."""
    batches, without = list[Batch](), ""
    wanted = math.ceil(states / 2 / ROWS)
    try:
        single = _place(agent, env, trust)
    except UsageError as error:
        if env is not None:
            raise
        without = message_of(error)
    else:
        batches = _played(agent, single, wanted)
    rng, played = numpy_stream(0, "states of an export"), len(batches)
    while len(batches) * ROWS < states:
        entries = {key: _random(key, space, agent, rng) for key, space in entries_of(agent.observation_space).items()}
        starts = np.ones(ROWS, bool) if len(batches) == played else rng.random(ROWS) < 0.1
        batches.append((entries, starts))
    return batches, played * ROWS, without


def _place(agent: Any, env: Any, trust: bool) -> Callable[[], gym.Env]:
    """What makes the environment: that which is given, or the agent's own."""
    kind = loop(agent.loop)
    if env is None and "env" not in agent.facts:
        raise UsageError("the agent does not say what it was trained in; give env=….")
    if env is None:
        check_trust(kind, agent.facts["env"], trust)
    else:
        remember(env)
    inner = kind.single(**agent.facts["env"] if env is None else {"env": env})
    make_single(inner).close()
    return lambda: make_single(inner)


def _played(agent: Any, single: Callable[[], gym.Env], wanted: int) -> list[Batch]:
    """States that the agent meets."""
    batches = list[Batch]()

    class Recorder:
        observation_space, action_space = agent.observation_space, agent.action_space

        def predict(self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool) -> Any:
            if len(batches) == wanted:
                raise _EnoughError
            entries = observation if isinstance(observation, dict) else {"": observation}
            batches.append(({key: np.array(x) for key, x in entries.items()}, np.array(episode_start)))
            return agent.predict(observation, state, episode_start, deterministic)

    with contextlib.suppress(_EnoughError):
        episodes = [Episode(None, s) for s in episode_seeds(0, wanted * ROWS)]
        play_all(Recorder(), single, episodes, slots=ROWS, deterministic=False)
    return batches


def _random(key: str, space: gym.Space, agent: Any, rng: np.random.Generator) -> np.ndarray:
    """Random values `[ROWS, ...]` of one entry: within its bounds, or about as far as the agent has seen."""
    shape = (ROWS, *(space.shape or ()))
    if key == MASK_KEY:
        return _mask(space, agent.action_space, rng)
    if isinstance(space, gym.spaces.Discrete):
        return rng.integers(int(space.n), size=shape) + int(space.start)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return rng.integers(space.nvec, size=shape) + space.start
    if not isinstance(space, gym.spaces.Box):
        return rng.integers(2, size=shape).astype(space.dtype)
    if space.dtype.kind != "f":
        return rng.integers(space.low, space.high, size=shape, endpoint=True, dtype=space.dtype)  # type: ignore[arg-type]
    if key in (scales := getattr(agent, "scales", {})):
        mean, inverse = (x.numpy() for x in scales[key])
        return (mean + 2 * rng.standard_normal(shape) / inverse).astype(np.float32)
    low, high = np.maximum(space.low, -10.0), np.minimum(space.high, 10.0)
    return rng.uniform(np.minimum(low, high), np.maximum(low, high), shape).astype(np.float32)


def _mask(space: gym.Space, actions: gym.Space, rng: np.random.Generator) -> np.ndarray:
    """Random masks that leave an action in every part."""
    made = rng.random((ROWS, *(space.shape or ()))) < 0.5
    offset = 0
    for size in _choices(actions):
        made[np.arange(ROWS), offset + rng.integers(size, size=ROWS)] = True
        offset += size
    return made.astype(space.dtype)


def _choices(space: gym.Space) -> tuple[int, ...]:
    """The sizes of the parts of a discrete action."""
    distribution: Any = for_space(space)
    return distribution.choices


def compared(agent: Any, module: Deployed, draft: Path, path: Path, batches: list[Batch]) -> Differences:
    """Play the file beside the agent, both with the agent's memory. `UsageError` if they differ."""
    spaces = Fixed(module.observation_space, module.action_space)
    file: Any = OnnxPolicy(draft, spaces) if draft.suffix == ".onnx" else load_script(draft, spaces, trust=True)
    answer = _of_table(agent) if isinstance(module, DeployedTable) else _of_network(agent)
    noises = [port for port in module.inputs if port.name == NOISE or port.name.startswith(SEEN_NOISE)]
    generator, state = torch_stream(0, "noise of an export"), None
    action = parameters = worst = 0.0
    others = 0
    for entries, starts in batches:
        drawn = {port.name: _noise(port, generator) for port in noises}
        fed = file.given.named(entries, state, starts, deterministic=True)
        with torch.no_grad():
            found = {k: np.asarray(x) for k, x in file.run({**fed, **{k: x.numpy() for k, x in drawn.items()}}).items()}
            mine = answer(entries, state, starts, drawn)
        pairs = [("parameters", mine.parameters)]
        if isinstance(module.action_space, gym.spaces.Box):
            pairs.append(("action", mine.action))
            action = max(action, _difference(found["action"], mine.action))
        else:
            others += _other_actions(found, mine, module, path)
        if mine.state is not None and not isinstance(module, DeployedTable):
            pairs.append((NEXT, mine.state))
        parameters = max(parameters, *(_difference(found[name], x) for name, x in pairs if name != "action"))
        worst = max(worst, *(_relative(found[name], x) for name, x in pairs))
        state = mine.state
    if not worst <= TOLERANCE:
        raise _differs(path, f"by {worst:.3g} of the size of its numbers")
    return Differences(action, parameters, others)


def _differs(path: Path, how: str) -> UsageError:
    return UsageError(
        f"the file for {path} differs from the agent {how}, so it was removed. Try the other format (.onnx, .pt), or "
        "other versions of torch and onnxruntime; please report it."
    )


def _difference(a: Any, b: Any) -> float:
    """The largest difference; infinite for numbers that are not."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.where(a == b, 0.0, np.abs(a - b)), nan=np.inf).max(initial=0.0))


def _relative(a: Any, b: Any) -> float:
    """The largest difference relative to 1 + the largest size: rounding grows with the numbers that are added up."""
    sizes = np.abs(np.where(np.asarray(b) > IMPOSSIBLE / 2, b, 0.0))
    return _difference(a, b) / (1 + float(sizes.max(initial=0.0)))


def _noise(port: Port, generator: torch.Generator) -> torch.Tensor:
    if port.says == GUMBEL:
        return Categorical((math.prod(port.shape),)).noise((ROWS,), generator).to(getattr(torch, port.dtype))
    return torch.randn((ROWS, *port.shape), generator=generator)


class _Answer(NamedTuple):
    """What the agent does in a batch of states."""

    action: np.ndarray
    parameters: np.ndarray
    scores: np.ndarray | None  # of discrete actions, one part after another: the highest is chosen
    state: np.ndarray | None


def _of_network(agent: Agent) -> Callable[..., _Answer]:
    """The answers of an agent with a network, with given noise instead of its own."""
    quiet = {name: x for name, x in agent.facts.items() if name != "smoothing"}
    sigma = float(agent.facts.get("smoothing", 0.0))
    places = agent.observation_space, agent.action_space
    calm = Agent(agent.network, *places, agent.vector, agent.scales, quiet, agent.companions)
    whole = isinstance(agent.observation_space, gym.spaces.Dict)

    def answer(entries: dict[str, np.ndarray], state: Any, starts: np.ndarray, drawn: dict[str, torch.Tensor]) -> Any:
        noises = {key: drawn.get(port_name(SEEN_NOISE, key)) for key in entries}
        seen = {k: x if noises[k] is None else moved(x, sigma * noises[k].double().numpy()) for k, x in entries.items()}  # type: ignore[union-attr]
        tensors = {key: torch.as_tensor(x) for key, x in seen.items()}
        distribution, params = calm.respond(tensors if whole else tensors[""], state, starts)
        action, after = calm.predict(seen if whole else seen[""], state, starts, deterministic=True)
        noise, scores = drawn.get(NOISE), params.numpy()
        if noise is not None:
            action = distribution.to_env(distribution.sample(params, noise)).numpy()
            if isinstance(distribution, Gaussian):
                action = np.clip(action, agent.action_space.low, agent.action_space.high)  # type: ignore[attr-defined]
            else:
                scores = scores + noise.numpy()
        return _Answer(np.asarray(action), params.numpy(), scores, after)

    return answer


def _of_table(agent: TabularAgent) -> Callable[..., _Answer]:
    """The answers of a table; a sample is the highest log probability plus Gumbel noise."""
    table = agent.policy.numpy()

    def answer(entries: dict[str, np.ndarray], state: Any, starts: np.ndarray, drawn: dict[str, torch.Tensor]) -> Any:
        seen, noise = entries[""], drawn.get(NOISE)
        memory = np.zeros(len(seen), np.int64) if state is None else np.where(starts, 0, state)
        rows = (table[seen] if table.ndim == 2 else table[memory, seen]).reshape(len(seen), -1)
        action, after = agent.predict(seen, state, starts, deterministic=True)
        if noise is None:
            return _Answer(np.asarray(action), rows, rows, after)
        with np.errstate(divide="ignore"):
            scores = np.log(rows) + noise.numpy()
        best = scores.argmax(-1)
        if table.ndim == 4:
            return _Answer(best // len(table), rows, scores, best % len(table))
        return _Answer(best, rows, scores, after)

    return answer


def _other_actions(found: dict[str, np.ndarray], mine: _Answer, module: Deployed, path: Path) -> int:
    """The number of states in which the file takes another action, which has the same score up to the tolerance."""
    theirs, ours, sizes = found["action"], mine.action, _choices(module.action_space)
    start = np.asarray(getattr(module.action_space, "start", 0))
    theirs, ours = ((x - start).reshape(len(x), -1) for x in (theirs, ours))
    if isinstance(module, DeployedTable) and module.table.ndim == 4:  # an action is chosen with the next memory
        memories = len(module.table)
        theirs, ours = theirs * memories + found[NEXT][:, None], ours * memories + mine.state[:, None]  # type: ignore[index]
        sizes = (sizes[0] * memories,)
    assert mine.scores is not None
    others, offset = np.zeros(len(theirs), bool), 0
    for part, size in enumerate(sizes):
        scores = mine.scores[:, offset : offset + size]
        one, two = (np.take_along_axis(scores, x[:, part : part + 1], -1) for x in (theirs, ours))
        if not _difference(one, two) <= TOLERANCE * (1 + float(np.abs(two).max())):
            raise _differs(path, "in the action that it takes")
        others |= theirs[:, part] != ours[:, part]
        offset += size
    return int(others.sum())
