"""What Stable-Baselines3 does to observations, on tensors: its vector wrappers, and its models as functions that can be
differentiated, with their distributions as those of this library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.errors import UsageError
from surefoot.models.distributions import Categorical, Deterministic, Gaussian, Greedy, MultiDiscrete, SquashedGaussian
from surefoot.models.networks import Observation


def policy_of(model: Any) -> Any:
    """The network of a model, which may be the policy itself, in evaluation mode."""
    policy = getattr(model, "policy", model)
    policy.set_training_mode(False)
    return policy


def through(wrapper: Any, observation: Any, frames: Any, starts: np.ndarray | None) -> tuple[Any, Any]:
    """Tensors of observations `[batch, ...]` after a vector wrapper, and its stacked frames."""
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, VecTransposeImage

    if isinstance(wrapper, VecNormalize):
        scales = statistics(wrapper)
        if isinstance(observation, dict):
            scaled = {key: _scaled(observation[key], scale, wrapper.clip_obs) for key, scale in scales.items()}
            return {**observation, **scaled}, None
        return (_scaled(observation, scales[""], wrapper.clip_obs) if scales else observation), None
    if isinstance(wrapper, VecTransposeImage):
        if not isinstance(observation, dict):
            return observation if wrapper.skip else observation.movedim(-1, -3), None
        turned = () if wrapper.skip else wrapper.image_space_keys
        return {key: x.movedim(-1, -3) if key in turned else x for key, x in observation.items()}, None
    if isinstance(wrapper, VecFrameStack):
        stacked = _stacked(wrapper.stacked_obs, observation, frames, starts)
        return stacked, tree_map(Tensor.detach, stacked)
    return observation[wrapper.key], None


def statistics(wrapper: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Means and standard deviations of a `VecNormalize` by key; '' for a plain observation, none if it has none."""
    if not wrapper.norm_obs:
        return {}
    moments = wrapper.obs_rms if isinstance(wrapper.obs_rms, dict) else {"": wrapper.obs_rms}
    return {key: (one.mean, np.sqrt(one.var + wrapper.epsilon)) for key, one in moments.items()}


def _scaled(x: Tensor, scale: tuple[np.ndarray, np.ndarray], clip: float) -> Tensor:
    mean, deviation = (torch.as_tensor(np.asarray(one)) for one in scale)
    return ((x - mean) / deviation).clamp(-clip, clip).float()


def _stacked(stack: Any, observation: Any, frames: Any, starts: np.ndarray | None) -> Any:
    """The last frames of each row, as in `VecFrameStack`: zeros before the start of an episode."""
    if isinstance(observation, dict):
        parts = stack.sub_stacked_observations
        return {k: _stacked(parts[k], x, frames and frames[k], starts) for k, x in observation.items()}
    axis = 1 if stack.channels_first else observation.dim() - 1
    size = observation.shape[axis]
    if frames is None:
        frames = torch.zeros((len(observation), *stack.stacked_shape), dtype=observation.dtype)
    if starts is not None:
        first = torch.as_tensor(starts).view(-1, *[1] * (frames.dim() - 1))
        frames = torch.where(first, torch.zeros((), dtype=frames.dtype), frames)
    older = frames.narrow(axis, size, frames.shape[axis] - size)
    return torch.cat([older.to(observation.dtype), observation], axis)


def deviations(wrappers: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """The standard deviations by which the newest observation is divided, by key; that of stacked frames is the last
    frame's. None where images were transposed before."""
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

    stack = None
    for wrapper in wrappers:
        if isinstance(wrapper, VecFrameStack):
            stack = wrapper.stacked_obs
        elif isinstance(wrapper, VecNormalize):
            found = {key: deviation for key, (_, deviation) in statistics(wrapper).items()}
            return found if stack is None else {key: _newest(x, stack, key) for key, x in found.items()}
        else:
            return {}
    return {}


def _newest(deviation: np.ndarray, stack: Any, key: str) -> np.ndarray:
    part = stack.sub_stacked_observations[key] if key else stack
    axis = 0 if part.channels_first else deviation.ndim - 1
    return np.split(deviation, part.n_stack, axis)[-1]


def ready(policy: Any, observation: Observation) -> Any:
    """A batch as the policy's network takes it: on its device, images with their channels first."""
    from stable_baselines3.common.preprocessing import is_image_space

    spaces = getattr(policy.observation_space, "spaces", {"": policy.observation_space})
    given = observation if isinstance(observation, dict) else {"": observation}
    made = {}
    for key, space in spaces.items():
        x = given[key].to(policy.device)
        turned = is_image_space(space) and x.shape[1:] != space.shape
        made[key] = x.movedim(-1, -3) if turned else x
    return made if isinstance(observation, dict) else made[""]


def respond(
    model: Any, observation: Observation, state: Any, starts: np.ndarray | None, mask: Any
) -> tuple[Any, Tensor]:
    """The distribution of a model's actions and its parameters `[batch, size]`."""
    policy = policy_of(model)
    given = ready(policy, observation)
    if hasattr(policy, "q_net"):
        return _greedy(policy), policy.q_net(given).cpu()
    if hasattr(policy, "quantile_net"):
        return _greedy(policy), policy.quantile_net(given).mean(1).cpu()
    if hasattr(policy, "actor"):
        dim = int(np.prod(policy.action_space.shape))
        box: Any = {"dim": dim, "low": (-1.0,) * dim, "high": (1.0,) * dim}
        if not hasattr(policy.actor, "get_action_dist_params"):
            return Deterministic(**box), policy.actor(given).cpu()
        mean, log_std, _ = policy.actor.get_action_dist_params(given)
        log_std = log_std if log_std.shape == mean.shape else torch.zeros_like(mean)  # state-dependent exploration
        return SquashedGaussian(**box), torch.cat([mean, log_std], -1).cpu()
    if not hasattr(policy, "get_distribution"):
        raise UsageError(
            f"{type(policy).__name__} has no known distribution of actions to follow; obs-random, observation-noise, "
            "observation-dropout and observation-delay need none."
        )
    if hasattr(policy, "lstm_actor"):
        found, _ = policy.get_distribution(given, *_memory(policy, state, starts, len(_any(given))))
    elif mask is not None:
        found = policy.get_distribution(given, action_masks=mask)
    else:
        found = policy.get_distribution(given)
    return _ours(found)


def _any(given: Any) -> Tensor:
    """Any one entry of a batch, to count its rows."""
    return next(iter(given.values())) if isinstance(given, dict) else given


def _memory(policy: Any, state: Any, starts: np.ndarray | None, batch: int) -> tuple[Any, Tensor]:
    """The state of a recurrent policy and the starts of its episodes, as `predict` makes them."""
    shape = (policy.lstm_hidden_state_shape[0], batch, policy.lstm_hidden_state_shape[2])
    parts = (np.zeros(shape), np.zeros(shape)) if state is None else state
    states = tuple(torch.as_tensor(x, dtype=torch.float32, device=policy.device) for x in parts)
    starts = np.zeros(batch) if starts is None else starts
    return states, torch.as_tensor(starts, dtype=torch.float32, device=policy.device)


def _greedy(policy: Any) -> Greedy:
    return Greedy((int(policy.action_space.n),), (int(policy.action_space.start),))


def _ours(found: Any) -> tuple[Any, Tensor]:
    """A distribution of Stable-Baselines3 as one of ours, with its parameters."""
    inner = found.distribution if hasattr(found, "distribution") else found.distributions
    if isinstance(inner, list):
        logits = [one.logits for one in inner]
        return MultiDiscrete(tuple(x.shape[-1] for x in logits)), torch.cat(logits, -1).cpu()
    if isinstance(inner, torch.distributions.Normal):
        params = torch.cat([inner.mean, inner.stddev.log()], -1).cpu()
        dim = inner.mean.shape[-1]
        if type(found).__name__ == "SquashedDiagGaussianDistribution" or getattr(found, "bijector", None) is not None:
            return SquashedGaussian(dim, (-1.0,) * dim, (1.0,) * dim), params
        return Gaussian(dim), params
    if isinstance(inner, torch.distributions.Bernoulli):
        two = torch.stack([torch.zeros_like(inner.logits), inner.logits], -1)
        return MultiDiscrete((2,) * inner.logits.shape[-1]), two.flatten(-2).cpu()
    return Categorical((inner.logits.shape[-1],)), inner.logits.cpu()


def criticise(model: Any, observation: Observation, seen: Observation) -> Tensor:
    """The value `[batch]` of acting on what is `seen` instead of `observation`: Q(s, μ(s̃)), or V(s̃) without a Q."""
    policy = policy_of(model)
    if hasattr(policy, "actor") and hasattr(policy, "critic"):
        distribution, params = respond(model, seen, None, None, None)
        action = distribution.mode(params)
        action = action.tanh() if isinstance(distribution, SquashedGaussian) else action
        values = policy.critic(ready(policy, observation), action.to(policy.device).float())
        values = torch.cat(values, 1) if isinstance(values, tuple) else values
        return values.flatten(1).min(1).values.cpu()
    if hasattr(policy, "q_net") or hasattr(policy, "quantile_net"):
        values = respond(model, observation, None, None, None)[1].detach()
        return (respond(model, seen, None, None, None)[1].softmax(-1) * values).sum(-1)
    if hasattr(policy, "lstm_actor") or not hasattr(policy, "predict_values"):
        raise UsageError(f"{type(policy).__name__} cannot be attacked by its critic; use obs-pgd or obs-mad.")
    return policy.predict_values(ready(policy, seen)).squeeze(-1).cpu()
