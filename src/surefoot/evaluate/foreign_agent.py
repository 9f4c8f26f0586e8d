"""A PPO or A2C model of Stable-Baselines3 as an agent of this library: the same weights, hence the same actions.

Only what has an exact counterpart is taken: two separate multilayer perceptrons on a vector, a Gaussian with state-
independent deviations or a categorical distribution, and the normalisation of `VecNormalize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.evaluate import foreign_tensors as tensors
from surefoot.evaluate.foreign import SB3Policy
from surefoot.models.agent import Agent, Network
from surefoot.models.functional import Flat
from surefoot.models.networks import ACTIVATIONS, is_image
from surefoot.models.normalizers import CLIP

SAME = {  # hyperparameters by their names there and here
    "n_envs": "num_envs", "n_steps": "num_steps", "batch_size": "minibatch_size", "n_epochs": "epochs",
    "gamma": "gamma", "gae_lambda": "lam", "ent_coef": "entropy", "max_grad_norm": "max_grad_norm",
    "learning_rate": "learning_rate", "clip_range": "clip", "target_kl": "target_kl",
    "normalize_advantage": "standardize",
}  # fmt: skip
INSTEAD = "Train a run instead: surefoot.train('ppo', env, perturb=…)."


def cloned(policy: SB3Policy) -> Agent:
    """The agent with the weights and the normaliser of a model.

    Raises:
        UsageError: the model has something without a counterpart here; the message names it.
    """
    theirs, space = tensors.policy_of(policy.model), policy.observation_space
    if problem := _problem(policy, theirs):
        raise UsageError(f"{type(theirs).__name__} has no counterpart here: {problem}. {INSTEAD}")
    actor, critic = (_linears(net) for net in (theirs.mlp_extractor.policy_net, theirs.mlp_extractor.value_net))
    sizes = [tuple(layer.out_features for layer in layers) for layers in (actor, critic)]
    network = Network(hidden=sizes[0], critic_hidden=sizes[1], activation=_activation(theirs))
    flat = Flat(network.make(space, policy.action_space))
    given = {"actor.log_std": getattr(theirs, "log_std", None)}
    for side, layers, last in (("actor", actor, theirs.action_net), ("critic", critic, theirs.value_net)):
        names = [name for name in flat.shapes if name.startswith(f"{side}.") and not name.endswith("log_std")]
        given |= zip(names, (x for layer in (*layers, last) for x in (layer.weight, layer.bias)), strict=True)
    with torch.no_grad():
        vector = flat.flatten({name: given[name].detach().float().cpu() for name in flat.shapes})  # type: ignore[union-attr]
    scales = {key: _scale(*one) for wrapper in policy.wrappers for key, one in tensors.statistics(wrapper).items()}
    return Agent(network, space, policy.action_space, vector, scales)


def settings_of(recorded: Mapping[str, Any], normalized: bool) -> dict[str, Any]:
    """The hyperparameters of PPO here that a model names there; what it holds only as a pickle has the default.

    Its value loss is `vf_coef · (V − G)²`, ours is half the square.
    """
    number = (int, float, bool, type(None))
    found = {ours: recorded[name] for name, ours in SAME.items() if isinstance(recorded.get(name, ...), number)}
    if isinstance(weight := recorded.get("vf_coef"), (int, float)):
        found["value_coefficient"] = 2 * weight
    return {**found, "normalize_observations": normalized, "normalize_rewards": normalized}


def architecture_of(agent: Agent) -> dict[str, Any]:
    """The hyperparameters of a method that give it the network of a cloned agent."""
    return {name: getattr(agent.network, name) for name in ("hidden", "critic_hidden", "activation")}


def _problem(policy: SB3Policy, theirs: Any) -> str | None:
    """What keeps a model from being an agent here, or None."""
    if type(theirs).__name__ != "ActorCriticPolicy":
        return "only the MlpPolicy of PPO and A2C has one"
    space = policy.observation_space
    if (
        not isinstance(space, spaces.Box)
        or is_image(space)
        or type(theirs.features_extractor).__name__ != "FlattenExtractor"
    ):
        return "it does not read one vector as it is"
    if getattr(theirs, "use_sde", False) or policy.masked:
        return "it has masks or state-dependent exploration"
    wrappers = [type(one).__name__ for one in policy.wrappers]
    if wrappers not in ([], ["VecNormalize"]):
        return f"it was trained inside {', '.join(wrappers)}"
    if wrappers and policy.wrappers[0].clip_obs != CLIP:
        return f"its normaliser clips at {policy.wrappers[0].clip_obs}, not at {CLIP:g}"
    return None if _activation(theirs) in ACTIVATIONS else "its activation is not known here"


def _linears(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def _activation(theirs: Any) -> str:
    return theirs.activation_fn.__name__.lower()


def _scale(mean: Any, deviation: Any) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(mean).float(), 1 / torch.as_tensor(deviation).float()
