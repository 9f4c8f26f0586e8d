"""A trained policy that acts: network, normaliser and spaces, saved as safetensors and JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.entrance import all_forbidden
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.models import spaces
from surefoot.models.actors import Actor, ActorNetwork
from surefoot.models.distributions import Gaussian, for_space
from surefoot.models.functional import Flat
from surefoot.models.networks import ACTIVATIONS, CORES, ActorCritic, Observation, is_image
from surefoot.models.normalizers import Moments, normalize
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.models.smoothing import noisy, noisy_keys
from surefoot.models.spaces import MASK_KEY

FORMAT = "surefoot-agent-1"
WIDEST = 2**16  # units per layer
UNKNOWN_COUNT = 10_000  # observations behind a normaliser, where the agent does not say how long it was trained
MOST_ENTRIES = 2**20  # in the bounds of a space, in addition to the number of weights


@dataclass(frozen=True)
class Network:
    """The architecture of an actor-critic."""

    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=WIDEST, help="Sizes of the hidden layers.")
    critic_hidden: tuple[int, ...] | None = hyperparameter(
        None, low=1, high=WIDEST, help="Critic's hidden sizes, if different."
    )
    activation: str = hyperparameter("tanh", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")
    shared: bool = hyperparameter(False, help="Share one encoder between actor and critic.")
    log_std_init: float = hyperparameter(0.0, help="Initial log standard deviation of a Gaussian policy.")
    squash: bool = hyperparameter(False, help="Squash a Gaussian policy's actions into the action box by tanh.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> ActorCritic:
        """A freshly initialised actor-critic for these spaces."""
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "squash"}
        return ActorCritic(observation_space, for_space(action_space, self.squash), **settings)


def _entries(space: gym.Space) -> dict[str, Any]:
    """The spaces of a dict space by key; any other space under the key ''."""
    return dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}


def normalized_shapes(space: gym.Space) -> dict[str, tuple[int, ...]]:
    """The observation entries that are normalised by running statistics, with their shapes; '' is the whole
    observation.

    These are all numeric Boxes except images (which are divided by 255) and the action mask.
    """
    return {
        key: s.shape
        for key, s in _entries(space).items()
        if key != MASK_KEY and isinstance(s, gym.spaces.Box) and s.dtype.kind in "fiu" and not is_image(s)
    }


def normalized_keys(space: gym.Space) -> dict[str, int]:
    """The normalised entries with their sizes."""
    return {key: math.prod(shape) for key, shape in normalized_shapes(space).items()}


def normalized_since(space: gym.Space) -> list[str]:
    """The normalised entries that older versions, which normalised only float vectors, left unchanged."""
    entries = _entries(space)
    return [k for k, shape in normalized_shapes(space).items() if len(shape) != 1 or entries[k].dtype.kind != "f"]


def normalize_observation(observation: Observation, scales: dict[str, tuple[Tensor, Tensor]]) -> Observation:
    """The observation with its normalised entries scaled; entries without a scale pass through."""
    if isinstance(observation, dict):
        return {k: normalize(x, *scales[k]) if k in scales else x for k, x in observation.items()}
    return normalize(observation, *scales[""]) if "" in scales else observation


def _floats(observation: Observation) -> Observation:
    """The observation in single precision where it is in double."""
    if isinstance(observation, dict):
        return {key: x.float() if x.dtype == torch.float64 else x for key, x in observation.items()}
    return observation.float() if observation.dtype == torch.float64 else observation


class Agent:
    """A policy with everything it needs to act; `predict` has the same signature as in Stable-Baselines3."""

    loop: ClassVar[str] = "on-policy"  # the kind of environments in which it acts

    def __init__(
        self,
        network: Network | ActorNetwork,
        observation_space: gym.Space,
        action_space: gym.Space,
        vector: Tensor,
        scales: dict[str, tuple[Tensor, Tensor]],
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        self.flat = Flat(network.make(observation_space, action_space))
        if vector.shape != (self.flat.size,):
            raise UsageError(
                f"the weights hold {vector.numel()} numbers, the network needs {self.flat.size}: they do not match."
            )
        self.vector, self.scales, self.facts = vector.clone(), scales, facts or {}
        self._smoothing = float(self.facts.get("smoothing", 0.0))
        self.module: ActorCritic | Actor = self.flat.bind(self.vector)  # type: ignore[assignment]

    def __repr__(self) -> str:
        ends = (self.observation_space, self.action_space)
        short = " → ".join(f"Box{s.shape}" if isinstance(s, gym.spaces.Box) else str(s) for s in ends)
        return described(self, f"{short} · {self.flat.size:,} weights")

    def predict(
        self,
        observation: np.ndarray | np.generic | dict[str, Any],
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray | np.generic, np.ndarray | None]:
        """Actions for a batch of observations (or one), and the new recurrent state.

        `deterministic=True` gives the most likely action; otherwise one is sampled with torch's global generator. If
        `facts` have "smoothing", noise of that standard deviation is added to the observations first, always.
        """
        if self._smoothing:
            observation = noisy(observation, self._smoothing, noisy_keys(self.observation_space))
        with torch.inference_mode():
            tensors, single = self._read(observation)
            params, state_tensor = self._forward(tensors, state, episode_start)
            distribution = self.module.distribution
            if deterministic:
                action = distribution.mode(params)
            else:
                noise = distribution.noise(params.shape[:-1], torch.default_generator)
                action = distribution.sample(params, noise)
            env_action = distribution.to_env(action).numpy()
        if isinstance(distribution, Gaussian):
            env_action = np.clip(env_action, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]
        return (env_action[0] if single else env_action), None if state_tensor is None else state_tensor.numpy()

    def moments(self) -> dict[str, Tensor]:
        """The statistics of its normaliser as a learner's state names them, for one seed."""
        count = self.facts.get("steps", UNKNOWN_COUNT)
        found = {key: Moments.of_scale(*scale, count) for key, scale in self.scales.items()}
        return {f"observations/{key}/{k}": x for key, one in found.items() for k, x in one._asdict().items()}

    # --- for attacks (surefoot.perturbations.attacks) ----------------------------------------------------------------

    @property
    def deviations(self) -> dict[str, np.ndarray]:
        """The standard deviations by which normalised entries of an observation are divided, by key."""
        return {key: 1 / inverse_std.double().numpy() for key, (_, inverse_std) in self.scales.items()}

    def respond(
        self, observation: Observation, state: np.ndarray | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[Any, Tensor]:
        """The action distribution and its parameters `[batch, size]`, differentiable by a batch of observations."""
        return self.module.distribution, self._forward(_floats(observation), state, episode_start)[0]

    def criticise(
        self, observation: Observation, seen: Observation, state: np.ndarray | None, episode_start: np.ndarray | None
    ) -> Tensor:
        """The value `[batch]` of acting on what is `seen` instead of `observation`: by the values of all actions if the
        agent has them, otherwise the state value of what is seen.

        Raises:
            UsageError: there is no critic in the agent, or it needs a memory of its own.
        """
        if isinstance(self.module, Actor) and self.network.kind == "values":  # type: ignore[union-attr]
            values = self.respond(observation)[1].detach()
            return (self.respond(seen)[1].softmax(-1) * values).sum(-1)
        if isinstance(self.module, Actor) or self.module.core_state:
            raise UsageError(
                f"this agent ({self.facts.get('method', 'no method')}) cannot be attacked by its critic: "
                + ("it has none." if isinstance(self.module, Actor) else "its critic has a memory, which is not kept.")
                + " Use obs-pgd or obs-mad."
            )
        return self.module.critic(normalize_observation(_floats(seen), self.scales))[0].squeeze(-1)

    def _read(self, observation: np.ndarray | np.generic | dict[str, Any]) -> tuple[Observation, bool]:
        """The observation as a batch of tensors, and whether it was a single one."""
        given = observation if isinstance(observation, dict) else {"": observation}
        arrays = {key: np.asarray(x) for key, x in given.items()}
        wanted = {key: s.shape for key, s in _entries(self.observation_space).items()}
        shapes = {key: arrays[key].shape for key in wanted if key in arrays}
        single = shapes == wanted
        if not single and (
            shapes.keys() != wanted.keys() or any(not x or x[1:] != wanted[k] for k, x in shapes.items())
        ):
            got = {key: x.shape for key, x in arrays.items()}
            raise UsageError(
                f"observation has shape {got.get('', got)}; it must be {wanted.get('', wanted)} or a batch of that."
            )
        batch = {k: arrays[k][None] if single else arrays[k] for k in wanted}
        every = np.ones(len(next(iter(batch.values()))), bool)
        if (stuck := all_forbidden(batch, self.action_space, every)) is not None:
            raise UsageError(f"the {MASK_KEY!r} of observation {stuck} forbids every action of {self.action_space}.")
        tensors = {k: torch.as_tensor(x) for k, x in batch.items()}
        return _floats(tensors.get("", tensors)), single

    def _forward(
        self, observation: Observation, state: np.ndarray | None, episode_start: np.ndarray | None
    ) -> tuple[Tensor, Tensor | None]:
        observation = normalize_observation(observation, self.scales)
        if not self.module.core_state:
            return self.module.policy(observation)
        batch = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        if state is None:
            state, episode_start = np.zeros((batch, self.module.core_state), np.float32), np.ones(batch, bool)
        starts = torch.zeros(batch, dtype=torch.bool)
        if episode_start is not None:
            starts = torch.as_tensor(episode_start).bool().view(batch)
        one_step = {k: x[None] for k, x in observation.items()} if isinstance(observation, dict) else observation[None]
        params, new_state = self.module.policy(one_step, torch.as_tensor(state), starts[None])
        return params[0], new_state

    def outputs(self, observation: Tensor) -> Tensor:
        """The parameters `[batch, size]` of the action distribution (logits, values or means first), differentiable in
        a batch of observations. For agents without memory, on array observations."""
        return self.module.policy(normalize_observation(observation, self.scales))[0]

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        tensors = {f"weights/{name}": p.contiguous().clone() for name, p in self.flat.unflatten(self.vector).items()}
        for key, (mean, inverse_std) in self.scales.items():
            tensors[f"normalizer/{key}/mean"], tensors[f"normalizer/{key}/inverse_std"] = (
                mean.clone(),
                inverse_std.clone(),
            )
        description = {
            "format": FORMAT,
            "network": dataclasses.asdict(self.network),
            "observation_space": spaces.to_json(self.observation_space),
            "action_space": spaces.to_json(self.action_space),
            "normalized": sorted(self.scales),
            **self.facts,
        }
        return write_agent(folder, description, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> Agent:
        """The agent that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder holds no agent, or one that is damaged or of another format.
        """
        description, tensors = read_agent(folder, FORMAT)
        numbers = sum(x.numel() for x in tensors.values())
        try:
            settings = {k: tuple(v) if isinstance(v, list) else v for k, v in description.pop("network").items()}
            given = [description.pop(k) for k in ("observation_space", "action_space")]
            normalized = {str(key) for key in description.pop("normalized")}
            space, action_space = (spaces.from_json(one, MOST_ENTRIES + numbers) for one in given)
            network = build(ActorNetwork if "kind" in settings else Network, settings)
        except (KeyError, AttributeError, TypeError, UsageError) as error:
            said = error if isinstance(error, UsageError) else repr(error)
            raise UsageError(f"{folder}/agent.json is damaged: {said} Save the agent again.") from error
        layers, core = network.hidden, 0
        if isinstance(network, Network):
            layers, core = layers + (network.critic_hidden or ()), 0 if network.core is None else network.core_size
        widest = max((*layers, core), default=0)
        if len(layers) > len(tensors) or widest > numbers:
            raise UsageError(f"{folder}/agent.json describes a larger network than agent.safetensors has weights for.")
        with torch.device("meta"):  # only shapes, which take no memory
            flat = Flat(network.make(space, action_space))
        wanted = {f"weights/{name}": shape for name, shape in flat.shapes.items()}
        shapes = normalized_shapes(space)
        for key in normalized & shapes.keys():
            wanted |= {f"normalizer/{key}/{part}": torch.Size(shapes[key]) for part in ("mean", "inverse_std")}
        found = {name: x.shape if x.dtype == torch.float32 else x.dtype for name, x in tensors.items()}
        wrong = [name for name in wanted | found if wanted.get(name) != found.get(name)] + [*normalized - {*shapes}]
        if wrong:
            named = [name.removeprefix("weights/") for name in wrong[:8]]
            raise UsageError(
                f"{folder}/agent.safetensors lacks weights that agent.json describes, has additional ones, or one has "
                f"the wrong shape or is not float32: {named}."
            )
        if wrong := [name for name, x in tensors.items() if not bool(torch.isfinite(x).all())]:
            raise UsageError(f"{folder}/agent.safetensors is damaged: {wrong[:8]} have numbers that are not finite.")
        vector = flat.flatten({name: tensors[f"weights/{name}"] for name in flat.shapes})
        scales = {
            key: (tensors[f"normalizer/{key}/mean"], tensors[f"normalizer/{key}/inverse_std"])
            for key in shapes
            if key in normalized
        }
        return cls(network, space, action_space, vector, scales, description)
