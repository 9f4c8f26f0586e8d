"""A trained policy that acts: network, normaliser and spaces, saved as safetensors and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.entrance import all_forbidden
from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.models import acting, spaces
from surefoot.models.actors import Actor, ActorNetwork
from surefoot.models.companions import Companion, shapes_of, tensors_of
from surefoot.models.distributions import Categorical, Gaussian, SquashedGaussian, from_box
from surefoot.models.functional import Flat
from surefoot.models.networks import WIDEST, ActorCritic, Network, Observation
from surefoot.models.normalizers import Moments
from surefoot.models.observations import entries, floats, normalize_observation, normalized_shapes, plus
from surefoot.models.saved import described, read_agent, write_agent
from surefoot.models.sequence import SequenceNetwork
from surefoot.models.smoothing import Smoothing, boxes, draw, noisy, noisy_copies, noisy_keys
from surefoot.models.spaces import MASK_KEY

__all__ = ["WIDEST", "Agent", "Network"]

FORMAT = "surefoot-agent-1"
UNKNOWN_COUNT = 10_000  # observations behind a normaliser, where the agent does not say how long it was trained
NO_CRITIC = "it keeps none: it was saved by an older version, or its critic judges more than the agent sees and does."
MOST_ENTRIES = 2**20  # in the bounds of a space, in addition to the number of weights


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
        companions: Mapping[str, Companion] | None = None,
    ) -> None:
        self.network, self.observation_space, self.action_space = network, observation_space, action_space
        self.flat = Flat(network.make(observation_space, action_space))
        if vector.shape != (self.flat.size,):
            raise UsageError(
                f"the weights hold {vector.numel()} numbers, the network needs {self.flat.size}: they do not match."
            )
        self.vector, self.scales, self.facts = vector.clone(), scales, facts or {}
        self.companions = dict(companions or {})
        self._flats = {name: one.made(observation_space, action_space) for name, one in self.companions.items()}
        self._smoothing = float(self.facts.get("smoothing", 0.0))
        self.rule = build(Smoothing, self.facts["smoothed"]) if "smoothed" in self.facts else None
        self.module: ActorCritic | Actor = self.flat.bind(self.vector)  # type: ignore[assignment]
        self.acting_rules = acting.from_json(self.facts.get("acting", []))
        self.distribution: Any = self.module.distribution  # in which it acts
        if self.acting_rules:
            if self.rule is not None:
                raise UsageError("an agent that decides by several noisy copies has no acting rule after that.")
            acting.check_rules(self.acting_rules, self.companions, self.distribution)
            self.distribution = acting.box_of(action_space)

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
        `facts` have "smoothing", noise of that standard deviation is added to the observations first, always; if they
        have "smoothed", it acts on several noisy copies as that says; if "acting", by these rules.
        """
        if self._smoothing:
            observation = noisy(observation, self._smoothing, noisy_keys(self.observation_space))
        with torch.no_grad() if self.acting_rules else torch.inference_mode():  # a rule may take gradients
            tensors, single = self._read(observation)
            if self.rule is None:
                params, state_tensor = self._decided(tensors, state, episode_start, sample=not deterministic)
            else:
                params, state_tensor = self.rule(*self._answers(tensors, self.rule.draws)), None
            distribution = self.distribution
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
        """The action distribution and its parameters `[batch, size]`, differentiable by a batch of observations; those
        of the network without the noise that a smoothed agent adds. Acting rules are followed."""
        return self.distribution, self._decided(floats(observation), state, episode_start)[0]

    def respond_noisy(
        self,
        observation: Observation,
        draws: int,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
    ) -> tuple[Any, Tensor]:
        """The same for `draws` of the agent's own noise from torch's global generator, `[draws, batch, size]`.

        Raises:
            UsageError: the agent adds no noise.
        """
        if self.rule is not None:
            answers, distribution = self._answers(floats(observation), draws)
            return distribution, answers
        if not self._smoothing:
            raise UsageError("draws is not allowed for an agent that adds no noise to its observations; leave it out.")
        each = []
        for _ in range(draws):
            seen = plus(floats(observation), self._smoothing, boxes(self.observation_space))
            each.append(self._decided(seen, state, episode_start)[0])
        return self.distribution, torch.stack(each)

    @property
    def noisy(self) -> bool:
        """Whether it adds noise to what it sees."""
        return self.rule is not None or self._smoothing > 0

    def intended(
        self, observation: Observation, state: np.ndarray | None = None, episode_start: np.ndarray | None = None
    ) -> tuple[Any, Tensor]:
        """The distribution and its parameters `[batch, size]` by which it acts: those of all its draws together, if it
        has several. The logarithms of votes are logits."""
        if self.rule is None:
            return self.respond(observation, state, episode_start)
        params = self.rule(*self._answers(floats(observation), self.rule.draws))
        return self.module.distribution, params.clamp(min=1e-6).log() if self.rule.by == "vote" else params

    def with_draws(self, draws: int) -> Agent:
        """The same agent, which acts on another number of noisy copies. Raises `UsageError` if it acts on none."""
        if self.rule is None:
            raise UsageError(f"draws={draws} is not allowed for an agent that is not smoothed by several draws.")
        return self._with(smoothed={**self.facts["smoothed"], "draws": draws})

    # --- acting rules (surefoot.models.acting) -----------------------------------------------------------------------

    def acting(self, **knobs: Any) -> Agent:
        """The same agent with knobs of its acting rules turned, such as `acting(log_tau=1.0)`; `knobs` lists them.

        Raises:
            UsageError: it has no such knob, or a value is not allowed.
        """
        who = f"this agent ({self.facts.get('method', 'no method')})"
        return self._with(acting=acting.to_json(acting.turned(self.acting_rules, knobs, who)))

    @property
    def knobs(self) -> dict[str, Any]:
        """What `acting` turns, by name, with its present value."""
        return {f.name: getattr(rule, f.name) for rule in self.acting_rules for f in dataclasses.fields(rule)}

    def ruled(self, *rules: acting.Rule, companions: Mapping[str, Companion] | None = None) -> Agent:
        """The same agent with other acting rules, and with more companions that these ask; without rules it acts as its
        network says."""
        return self._with(companions, acting=acting.to_json(rules))

    def ask(self, name: str, *inputs: Any) -> Tensor:
        """What a companion says of its inputs, with a leading axis of copies."""
        return self.companions[name](self._flats[name], *inputs)

    def _with(self, companions: Mapping[str, Companion] | None = None, **facts: Any) -> Agent:
        given = {k: x for k, x in {**self.facts, **facts}.items() if (k, x) != ("acting", [])}
        spaces, beside = (self.observation_space, self.action_space), {**self.companions, **(companions or {})}
        return Agent(self.network, *spaces, self.vector, self.scales, given, beside)

    def _decided(
        self, observation: Observation, state: Any = None, episode_start: Any = None, sample: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The parameters `[batch, size]` by which it acts on a batch of observations, and the new recurrent state."""
        params, after = self._forward(observation, state, episode_start)
        if self.acting_rules:
            said = acting.Said(self.module.distribution, params, self.distribution, observation, sample)
            seen = normalize_observation(observation, self.scales)
            params = acting.followed(self.acting_rules, self.ask, seen, said).params
        return params, after

    def criticise(
        self, observation: Observation, seen: Observation, state: np.ndarray | None, episode_start: np.ndarray | None
    ) -> Tensor:
        """The value `[batch]` of acting on what is `seen` instead of `observation`: by the values of all actions if the
        agent has them, by the smallest of its critics Q(s, a) if it keeps them, otherwise the state value of what is
        seen.

        Raises:
            UsageError: there is no critic in the agent, or it needs a memory of its own.
        """
        if "critic" in self.companions:
            return self._judged(observation, self.respond(seen, state, episode_start)[1])
        if isinstance(self.module, Actor) and self.network.kind == "values" and not self.module.core_state:  # type: ignore[union-attr]
            values = self.respond(observation)[1].detach()
            return (self.respond(seen)[1].softmax(-1) * values).sum(-1)
        if isinstance(self.module, Actor) or self.module.core_state:
            raise UsageError(
                f"this agent ({self.facts.get('method', 'no method')}) cannot be attacked by its critic: "
                + ("its critic has a memory, which is not kept." if self.module.core_state else NO_CRITIC)
                + " Use obs-pgd or obs-mad."
            )
        return self.module.value(normalize_observation(floats(seen), self.scales))

    def judge(self, observation: Observation, action: Tensor | None) -> Tensor:
        """What all its critics say of actions `[batch, dim]` in the environment's units, or of its own for None:
        `[critics, batch]`, differentiable. For agents that keep critics of continuous actions."""
        seen, box = normalize_observation(floats(observation), self.scales), self.distribution
        given = self._unit(self.respond(observation)[1]) if action is None else from_box(action, box.low, box.high)
        return self.ask("critic", seen, given)

    def _unit(self, params: Tensor) -> Tensor:
        """The most likely action of these parameters in [−1, 1]."""
        action = self.distribution.mode(params)
        return action.tanh() if isinstance(self.distribution, SquashedGaussian) else action

    def _judged(self, observation: Observation, params: Tensor) -> Tensor:
        """The smallest value `[batch]`, by the critics, of the action with these parameters."""
        seen = normalize_observation(floats(observation), self.scales)
        if isinstance(self.module.distribution, Categorical):
            values = self.ask("critic", seen).detach().min(0).values
            return (params.softmax(-1) * values).sum(-1)
        return self.ask("critic", seen, self._unit(params)).min(0).values

    def _read(self, observation: np.ndarray | np.generic | dict[str, Any]) -> tuple[Observation, bool]:
        """The observation as a batch of tensors, and whether it was a single one."""
        given = observation if isinstance(observation, dict) else {"": observation}
        arrays = {key: np.asarray(x) for key, x in given.items()}
        wanted = {key: s.shape for key, s in entries(self.observation_space).items()}
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
        return floats(tensors.get("", tensors)), single

    def _forward(
        self, observation: Observation, state: np.ndarray | None, episode_start: np.ndarray | None
    ) -> tuple[Tensor, Tensor | None]:
        observation = normalize_observation(observation, self.scales)
        if not self.module.core_state:
            return self.module.policy(self._cleaned(observation))
        batch = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        if state is None:
            state, episode_start = np.zeros((batch, self.module.core_state), np.float32), np.ones(batch, bool)
        starts = torch.zeros(batch, dtype=torch.bool)
        if episode_start is not None:
            starts = torch.as_tensor(episode_start).bool().view(batch)
        one_step = {k: x[None] for k, x in observation.items()} if isinstance(observation, dict) else observation[None]
        params, new_state = self.module.policy(one_step, torch.as_tensor(state), starts[None])
        return params[0], new_state

    def _cleaned(self, observation: Observation) -> Observation:
        """What the network sees of a normalised observation: that which the denoiser makes of it, if there is one."""
        if "denoiser" not in self.companions:
            return observation
        return self.companions["denoiser"](self._flats["denoiser"], observation)[0]

    def _answers(self, observation: Observation, draws: int) -> tuple[Tensor, Any]:
        """The parameters for fresh noisy copies of a batch of observations `[draws, batch, size]`, and their
        distribution."""
        assert self.rule is not None
        normal = normalize_observation(observation, self.scales)
        batch = len(next(iter(normal.values())) if isinstance(normal, dict) else normal)
        seen = noisy_copies(normal, draw(self.observation_space, (draws, batch), self.rule.sigma))
        return self.module.policy(self._cleaned(seen))[0], self.module.distribution

    def outputs(self, observation: Tensor) -> Tensor:
        """The parameters `[batch, size]` of the action distribution (logits, values or means first), differentiable in
        a batch of observations. For agents without memory, on array observations."""
        return self._decided(observation)[0]

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        tensors = {f"weights/{name}": p.contiguous().clone() for name, p in self.flat.unflatten(self.vector).items()}
        for key, (mean, inverse_std) in self.scales.items():
            tensors[f"normalizer/{key}/mean"], tensors[f"normalizer/{key}/inverse_std"] = (
                mean.clone(),
                inverse_std.clone(),
            )
        tensors |= tensors_of(self.companions, self._flats)
        beside = {name: one.described() for name, one in self.companions.items()}
        description = {
            "format": FORMAT,
            "network": dataclasses.asdict(self.network),
            **({"networks": beside} if beside else {}),
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
            network = build(
                SequenceNetwork if "members" in settings else ActorNetwork if "kind" in settings else Network, settings
            )
            if "smoothed" in description:
                build(Smoothing, description["smoothed"])
            acting.from_json(description.get("acting", []))
            beside = shapes_of(description.pop("networks", {}), space, action_space, numbers)
        except (KeyError, AttributeError, TypeError, UsageError) as error:
            said = error if isinstance(error, UsageError) else repr(error)
            raise UsageError(f"{folder}/agent.json is damaged: {said} Save the agent again.") from error
        layers = network.hidden
        core = 0 if network.core is None else network.core_size
        if isinstance(network, Network):
            layers += network.critic_hidden or ()
        widest = max((*layers, core), default=0)
        if len(layers) > len(tensors) or widest > numbers:
            raise UsageError(f"{folder}/agent.json describes a larger network than agent.safetensors has weights for.")
        with torch.device("meta"):  # only shapes, which take no memory
            flat = Flat(network.make(space, action_space))
        wanted = {f"weights/{name}": shape for name, shape in flat.shapes.items()}
        shapes = normalized_shapes(space)
        for key in normalized & shapes.keys():
            wanted |= {f"normalizer/{key}/{part}": torch.Size(shapes[key]) for part in ("mean", "inverse_std")}
        for name, (_, function, copies) in beside.items():
            wanted |= {f"networks/{name}/{k}": torch.Size((copies, *shape)) for k, shape in function.shapes.items()}
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
        companions = {}
        for name, (one, function, copies) in beside.items():
            parts = {key: tensors[f"networks/{name}/{key}"] for key in function.shapes}
            rows = [function.flatten({key: x[copy] for key, x in parts.items()}) for copy in range(copies)]
            companions[name] = Companion(one, torch.cat(rows), copies)
        return cls(network, space, action_space, vector, scales, description, companions)
