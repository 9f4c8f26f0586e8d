"""Episodes of any policy, with several environments in lock-step so that the policy gets one batch per step.

Every slot has its own fixed list of episodes and finishes all of them, so short episodes are not counted more often
than long ones. Episode i has the same seed for every policy and perturbation, so that differences are paired.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from surefoot.envs import make_single
from surefoot.envs.entrance import Rows, all_forbidden, begun, figures, rounded, stepped
from surefoot.envs.perturbed import perturbation_for, settable
from surefoot.envs.vector import clipped, fail
from surefoot.errors import UsageError
from surefoot.evaluate.acting import Actor, Smoothed, actor
from surefoot.evaluate.attacked import Attacked
from surefoot.evaluate.deployed import Deployment, sequences
from surefoot.evaluate.foreign import SB3Policy, as_policy
from surefoot.hyperparameters import check_count
from surefoot.models.ensemble import Ensemble
from surefoot.perturbations import Perturbation, unwrap
from surefoot.perturbations.attacks import Target
from surefoot.seeding import check_seed, derive

EnvLike = str | Callable[..., gymnasium.Env]
LONGEST_EPISODE = 1_000_000


class Episode(NamedTuple):
    """One episode to be played: its perturbation and its seed."""

    perturbation: Perturbation | None
    seed: int

    def __str__(self) -> str:
        return f"the episode with seed {self.seed}" + (f" under {self.perturbation}" if self.perturbation else "")


def returns(
    policy: Any,
    env: EnvLike,
    episodes: int = 10,
    seeds: int | Sequence[int] = 0,
    perturbation: Perturbation | str | None = None,
    *,
    slots: int = 16,
    deterministic: bool = True,
) -> np.ndarray:
    """Undiscounted returns `[episodes]` of a policy.

    `policy`: has `predict(observation, state, episode_start, deterministic) -> (action, state)` (any Stable-Baselines3
    model), or is a callable `observations -> actions`; both on NumPy arrays with a leading batch axis.
    `env`: an id or a factory. `seeds`: one seed, from which the seed of every episode is derived, or one per episode.
    `perturbation`: a `Perturbation` or its text, such as "observation-noise:0.1" or "rrls:2d".
    `slots`: environments played side by side. `deterministic=False` samples actions, reproducibly for the same seeds.
    Raises `UsageError` for invalid input, before the first step, and `EnvError` for an environment that fails.
    """
    return played(policy, env, episodes, seeds, perturbation, slots=slots, deterministic=deterministic).returns


def played(
    policy: Any,
    env: EnvLike,
    episodes: int = 10,
    seeds: int | Sequence[int] = 0,
    perturbation: Perturbation | str | None = None,
    *,
    slots: int = 16,
    deterministic: bool = True,
) -> Played:
    """The same episodes as those of `returns`, with their lengths and the numbers in their infos."""
    chosen = episode_seeds(seeds, episodes)
    attack = None if perturbation is None else resolve(perturbation, env)
    return play_all(policy, settable(env, attack), [Episode(attack, s) for s in chosen], slots, deterministic)


class Played(NamedTuple):
    """Results of episodes."""

    returns: np.ndarray  # [episodes] undiscounted
    lengths: np.ndarray  # [episodes] steps
    figures: list[dict[str, float]]  # [episodes] numbers in the info of each last step


def episode_seeds(seeds: int | Sequence[int], episodes: int) -> list[int]:
    """The seed of each episode, derived from one seed or given one by one."""
    if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 1:
        raise UsageError(f"episodes={episodes!r} is not allowed; it must be a whole number >= 1 (10 is usual).")
    if isinstance(seeds, (int, np.integer)):
        return [derive(check_seed(int(seeds)), "evaluation episode", i) for i in range(episodes)]
    if len(seeds) != episodes:
        raise UsageError(f"seeds has {len(seeds)} entries for episodes={episodes}; give one seed, or one per episode.")
    return [check_seed(s) for s in seeds]


def resolve(perturbation: Perturbation | str, env: EnvLike) -> Perturbation:
    """The perturbation that a text names for `env`; one that only corrupts rewards is refused."""
    perturbation = perturbation_for(perturbation, env)
    if "reward" in perturbation.channels:
        raise UsageError(
            f"{perturbation} corrupts rewards, which changes what a policy learns, not what it does, so it"
            " cannot be used in a stress test. Train under it (train with perturb=), then evaluate without it."
        )
    return perturbation


def play(
    policy: Any,
    env: EnvLike,
    episodes: Sequence[Episode],
    slots: int = 16,
    deterministic: bool = True,
    watch: Callable[[gymnasium.Env], None] = lambda env: None,
) -> np.ndarray:
    """The returns `[len(episodes)]` of `play_all`."""
    return play_all(policy, env, episodes, slots, deterministic, watch).returns


def play_all(
    policy: Any,
    env: EnvLike,
    episodes: Sequence[Episode],
    slots: int = 16,
    deterministic: bool = True,
    watch: Callable[[gymnasium.Env], None] = lambda env: None,
) -> Played:
    """Play the episodes; episode j is played in slot `j % slots`, or for an agent of several members where `sequences`
    says. `watch` sees its environment at every step.

    The policy's batch always has one row per slot; the row of a finished slot keeps its last observation and its action
    is ignored, so a recurrent state keeps its shape. Data from the environments is converted and checked as in training
    (`envs.entrance`).
    """
    check_count("slots", slots)
    policy, single = fitted(policy, make_single(env))
    turns = sequences(policy, [one.perturbation for one in episodes], slots)
    count, waiting = len(turns), [iter(turn) for turn in turns]
    policy = Deployment(policy, count) if isinstance(policy, Ensemble) else policy
    act = actor(policy)
    own = [single, *(viewed(policy, make_single(env)) for _ in range(count - 1))]
    envs = list(own)
    space, batch = single.action_space, Rows(single.observation_space, count)
    attacked = Attacked(Target(policy, single.observation_space, space), count)
    returns, lengths = np.zeros(len(episodes)), np.zeros(len(episodes), np.int64)
    final: list[dict[str, float]] = [{} for _ in episodes]
    current: list[int | None] = [next(turn) for turn in waiting]
    starts, state, first = np.ones(count, bool), None, True

    def begin(slot: int, j: int) -> None:
        inner, attack = unwrap(envs[slot], own[slot]), attacked.begin(slot, *episodes[j])
        if isinstance(policy, Deployment):
            fresh = j == turns[slot][0] or episodes[j].perturbation != episodes[j - 1].perturbation
            policy.begin(slot, episodes[j].seed, fresh)
        envs[slot] = inner if attack is None else attack.wrap(inner)
        try:
            observation, _ = begun(envs[slot].reset(seed=episodes[j].seed))
            batch.put(slot, observation, ("the reset of", episodes[j]))
        except Exception as error:
            fail(slot, "reset", error, f" in {episodes[j]}")
        watch(envs[slot])

    try:
        with _chance(episodes[0].seed):
            for slot, turn in enumerate(turns):
                begin(slot, turn[0])
            while any(j is not None for j in current):
                acting = np.array([j is not None for j in current])
                if (stuck := all_forbidden(batch.rows, space, acting)) is not None:
                    j = current[stuck] or 0
                    raise UsageError(
                        f"env={env!r}: the action mask at step {lengths[j]} of {episodes[j]} forbids every action; "
                        "allow at least one, or end the episode where no action is left."
                    )
                seen = attacked(batch.copy(), state, starts)
                actions, state = decide(act, seen, state, starts, deterministic, space, first)
                starts, first = np.zeros(count, bool), False
                for slot, j in enumerate(current):
                    if j is None:
                        continue
                    action = int(actions[slot]) if isinstance(space, spaces.Discrete) else np.asarray(actions[slot])
                    try:
                        observation, reward, terminated, truncated, info = stepped(envs[slot].step(action))
                        over = terminated or truncated
                        batch.put(slot, observation, ("step", lengths[j], "of", episodes[j]), reward, keep=not over)
                    except Exception as error:
                        fail(slot, "step", error, f" in {episodes[j]}", int(lengths[j]))
                    watch(envs[slot])
                    returns[j] += reward
                    lengths[j] += 1
                    if over:
                        final[j] = figures(info)
                        if isinstance(policy, Deployment):
                            policy.end(slot, returns[j])
                        current[slot] = following = next(waiting[slot], None)
                        if following is None:
                            attacked.end(slot)
                        else:
                            begin(slot, following)
                            starts[slot] = True
                    elif lengths[j] >= LONGEST_EPISODE:
                        raise UsageError(
                            f"env={env!r}: an episode has not ended after {lengths[j]} steps; add a time limit."
                        )
    finally:
        for one in envs:
            one.close()
    return Played(returns, lengths, final)


@contextlib.contextmanager
def _chance(seed: int) -> Iterator[None]:
    """Seed torch's global generators, from which policies sample, with `seed`, and restore them afterwards."""
    generators = (
        torch.default_generator,
        *torch.cuda.default_generators,
    )  # those of GPUs exist only once a GPU is in use
    with torch.random.fork_rng(devices=range(len(generators) - 1)):
        for generator in generators:
            generator.manual_seed(derive(seed, "evaluation policy"))
        yield


def fitted(policy: Any, env: gymnasium.Env) -> tuple[Any, gymnasium.Env]:
    """The policy for `env`, and the environment as the policy needs it; `UsageError` if they do not fit."""
    actor(policy)
    if isinstance(policy, Smoothed):
        inner, env = fitted(policy.policy, env)
        return policy.around(inner, env.observation_space), env
    policy = as_policy(policy, env)
    env = viewed(policy, env)
    check_policy(policy, env)
    return policy, env


def viewed(policy: Any, env: gymnasium.Env) -> gymnasium.Env:
    """An environment as the policy needs it."""
    policy = policy.policy if isinstance(policy, Smoothed) else policy
    return policy.view(env) if isinstance(policy, SB3Policy) else env


def check_policy(policy: Any, env: gymnasium.Env) -> None:
    """Raise `UsageError` if the spaces that a policy declares are not the environment's.

    Bounds count for actions only: a policy does not need those of observations, and environments state them loosely.
    """
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(policy, name, None), getattr(env, name)
        if not isinstance(theirs, spaces.Space):
            continue
        boxes = name == "action_space" and isinstance(theirs, spaces.Box) and isinstance(ours, spaces.Box)
        if _form(theirs) != _form(ours) or (boxes and rounded(theirs) != rounded(ours)):
            raise UsageError(f"The policy was made for {name} {theirs}; the environment has {ours}. They must agree.")


def _form(space: spaces.Space) -> Any:
    """The structure of a space without the bounds of a Box and the number type, which differ between backends."""
    match space:
        case spaces.Dict():
            return {name: _form(inner) for name, inner in space.spaces.items()}
        case spaces.Discrete():
            return spaces.Discrete, int(space.n), int(space.start)
        case spaces.MultiDiscrete():
            return spaces.MultiDiscrete, space.nvec.tolist(), space.start.tolist()
    return type(space), space.shape


def decide(
    act: Actor, observations: Any, state: Any, starts: np.ndarray, deterministic: bool, space: spaces.Space, first: bool
) -> tuple[np.ndarray, Any]:
    """One call of the policy with its result checked; an error on the first batch is most likely a wrong shape."""
    try:
        answer = act(observations, state, starts, deterministic)
    except (ValueError, TypeError, RuntimeError, IndexError, AssertionError) as error:
        if not first:
            raise
        raise UsageError(
            f"The policy failed on its first batch of observations, of shape {_shapes(observations)}:"
            f" {type(error).__name__}: {error}. It must take NumPy arrays with a leading batch axis."
        ) from error
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise UsageError(f"policy.predict returned a {type(answer).__name__}; it must return a pair (actions, state).")
    actions, state = answer
    actions = actions.detach().cpu().numpy() if isinstance(actions, torch.Tensor) else np.asarray(actions)
    discrete = isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary))
    expected = (len(starts), *(space.shape or ()))
    if actions.shape != expected or (discrete and actions.dtype.kind not in "iub"):
        raise UsageError(
            f"The policy returned actions of shape {actions.shape} and type {actions.dtype} for {len(starts)}"
            f" observations; the action space {space} needs shape {expected} and type {space.dtype}."
        )
    if isinstance(space, spaces.Box):
        if not np.isfinite(actions).all():
            raise UsageError(
                f"The policy returned the action {actions[~np.isfinite(actions)][0]}, which is not finite."
            )
        return clipped(actions, space), state
    if discrete and (foreign := [a for a in actions if not space.contains(np.asarray(a, space.dtype))]):
        raise UsageError(
            f"The policy returned the action {foreign[0]}, which is not in the environment's action space {space}; it"
            " must return actions of that space, so play it in an environment like that of its training."
        )
    return actions.astype(space.dtype, copy=False), state


def _shapes(observations: Any) -> Any:
    return {k: v.shape for k, v in observations.items()} if isinstance(observations, dict) else observations.shape


def record(
    policy: Any,
    env: EnvLike,
    path: str | Path,
    episodes: int = 1,
    seeds: int | Sequence[int] = 0,
    perturbation: Perturbation | str | None = None,
    *,
    deterministic: bool = True,
) -> np.ndarray:
    """Write the episodes as a video (`.mp4` or `.gif`) and return their returns `[episodes]`."""
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"path={str(path)!r} is not allowed; a video is written as .mp4 or .gif.")
    chosen = episode_seeds(seeds, episodes)
    attack = None if perturbation is None else resolve(perturbation, env)
    filmed = functools.partial(make_single, settable(env, attack), {"render_mode": "rgb_array"})
    imageio, rate = frame_rate(env, filmed, path.suffix)
    pace: dict[str, Any] = (
        {"fps": rate, "macro_block_size": 2} if path.suffix == ".mp4" else {"duration": 1000 / rate, "loop": 0}
    )
    draft = path.with_stem(f".{path.stem}.part")
    try:
        writer: Any = imageio.get_writer(draft, **pace)
        with writer:
            jobs = [Episode(attack, s) for s in chosen]
            total = play(policy, filmed, jobs, 1, deterministic, lambda env: writer.append_data(env.render()))
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return total


def frame_rate(env: EnvLike, filmed: Callable[[], gymnasium.Env], suffix: str = ".mp4") -> tuple[Any, float]:
    """The library that writes films, and the frames per second of an environment, if it can be filmed here.

    Without a screen MuJoCo draws through EGL, unless the variable MUJOCO_GL says otherwise.
    """
    try:
        import imageio.v2 as imageio

        if suffix == ".mp4":
            import imageio_ffmpeg  # noqa: F401 # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError(f"A {suffix} video needs {error.name}: pip install imageio imageio-ffmpeg.") from error
    with contextlib.ExitStack() as stack:
        try:
            single = filmed()
            stack.callback(single.close)
            if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
                os.environ.setdefault("MUJOCO_GL", "egl")  # not earlier: importing MuJoCo must not depend on it
            single.reset(seed=0)
            frame = single.render()
            if not isinstance(frame, np.ndarray):
                raise TypeError(f"render() returned a {type(frame).__name__}, not an array")
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"env={env!r} cannot be filmed here ({type(error).__name__}: {error}). Gymnasium's small environments "
                "need pygame (pip install pygame). MuJoCo without a screen needs EGL (Debian, Ubuntu: apt-get install "
                "libegl1 libgl1-mesa-dri), or MUJOCO_GL=osmesa and OSMesa (libosmesa6)."
            ) from error
        return imageio, float(single.metadata.get("render_fps", 30))
