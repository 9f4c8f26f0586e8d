"""Data sets made here: by a policy, by random actions, or by all that a learner did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from surefoot import envs
from surefoot.configure import make_method, whole_steps
from surefoot.data.transitions import COLUMNS, Transitions
from surefoot.errors import UsageError, nearest
from surefoot.evaluate.player import player_of
from surefoot.hyperparameters import check_count
from surefoot.loops.common.collect import Collector
from surefoot.loops.common.folder import short_name
from surefoot.loops.common.run import env_name, make_learner
from surefoot.seeding import numpy_stream, torch_stream

RECIPES = ("random", "demonstrated", "medium", "medium-replay", "expert")
TRAINING = {"medium": 50_000, "expert": 500_000}  # steps of the learner whose agent then acts
ENVS, ROUND = 8, 64  # environments in which a policy is recorded at once, and steps at a time
Act = Callable[[Any, Any, np.ndarray, np.random.Generator], tuple[np.ndarray, Any]]
"""From observations, memory, beginnings of episodes and a generator to actions and the new memory."""


def record(
    env: Any,
    recipe: str = "medium-replay",
    steps: int = 100_000,
    *,
    method: str = "sac",
    agent: Any = None,
    train_steps: int | None = None,
    seed: int = 0,
    **hyperparameters: Any,
) -> Transitions:
    """A data set of an environment.

    Args:
        recipe: "random", uniformly random actions; "demonstrated", those that the environment itself offers
            (`demonstrate(observations, generator)`); "medium" and "expert", sampled actions of a policy that was
            trained for a shorter or a longer time; "medium-replay", everything that a learner did in its first steps.
        steps: transitions.
        method: the off-policy method that is trained, with its `hyperparameters`.
        agent: a run, an agent or another policy to record instead of a trained one (with "medium" or "expert").
        train_steps: steps of its training; by default 50,000 for "medium" and 500,000 for "expert".

    Raises:
        UsageError: the recipe is unknown, or an argument has no effect with it.
    """
    steps = _count("steps", steps)
    if recipe not in RECIPES:
        raise UsageError(f"recipe={recipe!r} is unknown. {nearest(recipe, RECIPES)}")
    for name, value in (("agent", agent), ("train_steps", train_steps)):
        if value is not None and (recipe not in TRAINING or (name == "train_steps" and agent is not None)):
            raise UsageError(f"{name}={value!r} has no effect with recipe={recipe!r} or a given agent; leave it out.")
    facts: dict[str, Any] = {"env": env_name(env), "recipe": recipe, "seed": seed}
    if recipe == "random":
        return _acted(env, steps, seed, facts, _random)
    if recipe == "demonstrated":
        return _acted(env, steps, seed, facts, _demonstrated(env))
    if agent is not None:
        return _acted(env, steps, seed, {**facts, "agent": str(agent)}, _policy(agent, env))
    made, slug = make_method(method, **hyperparameters)
    if made.loop != "off-policy":
        raise UsageError(f"method={method!r} is not allowed: recipes train off-policy methods, such as sac or td3.")
    facts["method"] = short_name(slug)
    if recipe == "medium-replay":
        whole = replace(made, buffer_size=2 * steps + made.pace)  # type: ignore[type-var]
        return _replayed(_learned(whole, env, seed, steps, kept=True), steps, facts)
    facts["train_steps"] = _count("train_steps", train_steps or TRAINING[recipe])
    trained = _learned(made, env, seed, facts["train_steps"]).agent()
    return _acted(env, steps, seed, facts, _policy(trained, env))


def _count(name: str, value: Any) -> int:
    """A number of steps, also given as 1e5."""
    check_count(name, number := whole_steps(value))
    return number


def _learned(method: Any, env: Any, seed: int, steps: int, *, kept: bool = False) -> Any:
    """A learner after so many steps, or with so many transitions kept."""
    learner = make_learner(method, env, [seed], steps)
    while learner.steps < steps or (kept and learner.replay.store["valid"].sum() < steps):
        learner.iterate()
    learner.close()
    return learner


def _replayed(learner: Any, steps: int, facts: dict[str, Any]) -> Transitions:
    """The first transitions of a learner's replay, those of one environment after another."""
    store, count = learner.replay.store, learner.method.num_envs
    rows = np.arange(learner.replay.filled)  # the ring is larger than what was done
    each = [
        {
            name: store["observation"][rows + 1, i] if name == "next_observation" else store[name][rows, i]
            for name in COLUMNS
        }
        for i in range(count)
    ]
    valid = [store["valid"][rows, i] for i in range(count)]
    return _whole(each, valid, learner.observation_space, learner.action_space, steps, facts)


def _whole(
    each: list[dict[str, np.ndarray]],
    valid: list[np.ndarray],
    observation_space: gym.Space,
    action_space: gym.Space,
    steps: int,
    facts: dict[str, Any],
) -> Transitions:
    """Transitions of several environments, each cut at the end of its recording, shortened to `steps`."""
    kept = [{name: x[mask] for name, x in one.items()} for one, mask in zip(each, valid, strict=True)]
    for one in kept:
        one["truncated"][-1] |= ~one["terminated"][-1]
    every = {name: np.concatenate([one[name] for one in kept])[:steps] for name in COLUMNS}
    return Transitions(**every, action_space=action_space, name=str(facts["env"]), facts=facts)


def _random(space: gym.Space) -> Act:
    """Uniformly random actions."""

    def act(observation: Any, state: Any, starts: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, Any]:
        if isinstance(space, gym.spaces.Box):
            return generator.uniform(space.low, space.high, (len(starts), *space.shape)).astype(space.dtype), None
        assert isinstance(space, gym.spaces.Discrete)
        return generator.integers(space.start, space.start + space.n, len(starts)), None

    return act


def _demonstrated(env: Any) -> Callable[[gym.Space], Act]:
    """The actions that the environment itself offers."""
    made = envs.make_single(env)
    offered = getattr(made.unwrapped, "demonstrate", None)
    made.close()
    if offered is None:
        raise UsageError(
            f"recipe='demonstrated' is not allowed for {env_name(env)}, which offers no actions of its own (a method "
            "demonstrate(observations, generator), as surefoot/Comblock5-v0 has). Use another recipe, or give agent=…."
        )
    return lambda space: lambda observation, state, starts, generator: (offered(observation, generator), None)


def _policy(agent: Any, env: Any) -> Callable[[gym.Space], Act]:
    """Sampled actions of a policy."""
    player = player_of(agent, env)[0]

    def act(observation: Any, state: Any, starts: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, Any]:
        return player.predict(observation, state, starts, deterministic=False)

    return lambda space: act


def _acted(env: Any, steps: int, seed: int, facts: dict[str, Any], actor: Callable[[gym.Space], Act]) -> Transitions:
    """Transitions of a way to act, in several environments at once."""
    made = envs.make(env, ENVS, seed=envs.env_seeds(seed, ENVS), backend="gymnasium")
    spaces = made.single_observation_space, made.single_action_space
    if not isinstance(spaces[0], gym.spaces.Box) or not isinstance(spaces[1], gym.spaces.Box | gym.spaces.Discrete):
        raise UsageError(
            f"{facts['env']} has observations of {spaces[0]} and actions of {spaces[1]}; a data set holds one array of "
            "each a step. Give a factory as env that flattens them (gymnasium.wrappers.FlattenObservation)."
        )
    collector, act, memory = Collector(made), actor(spaces[1]), None
    stream, rows, valid = numpy_stream(seed, "recorded actions"), list[list[np.ndarray]](), list[np.ndarray]()

    def chosen(t: int, observation: Any, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal memory
        action, memory = act(observation, memory, starts, stream)
        return action, action

    def keep(observation: Any, action: Any, reward: Any, end: Any, cut: Any, now: Any, following: Any) -> None:
        rows.append([np.array(x) for x in (observation, action, reward, following, end, cut)])
        valid.append(np.array(now))

    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_stream(seed, "recorded actions").get_state())
        while sum(int(x.sum()) for x in valid) < steps:
            collector.collect(ROUND, chosen, keep)
    made.close()
    each = [{name: np.stack([row[k][i] for row in rows]) for k, name in enumerate(COLUMNS)} for i in range(ENVS)]
    return _whole(each, [*np.stack(valid, 1)], *spaces, steps, facts)
