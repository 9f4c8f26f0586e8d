"""An agent as one module of tensors, with all that it does between an observation and an action: normalisation, the
order of images, masks, memory, and the limits of its actions. It is what `surefoot export` writes.

Nothing is drawn inside: whatever is random enters as an input, so that the module is a function in every runtime.

Inputs, each with a leading batch axis, in this order (`Deployed.inputs`):

- `observation`, or `observation.KEY` for every entry of a Dict, in the types and shapes of the environment;
- `observation_noise`, standard normal, in the shape of the observation, for an agent that smooths what it sees;
- `state`, the memory from the step before (zeros at first), and `episode_start`, true where an episode begins;
- `noise`, where actions are sampled. With zeros the action is the most likely one.

Outputs: `action` as the environment takes it, `parameters` of its distribution (logits or values; means, then log
standard deviations; for a table, probabilities), and `next_state`, the new memory of an agent that has one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from surefoot.envs.entrance import rounded
from surefoot.errors import UsageError
from surefoot.models import spaces
from surefoot.models.acting import Rule, Said, followed
from surefoot.models.agent import Agent
from surefoot.models.distributions import Deterministic, Gaussian, Greedy
from surefoot.models.normalizers import normalize
from surefoot.models.saved import FACTS
from surefoot.models.smoothing import noisy_keys
from surefoot.models.tabular_agent import TabularAgent

FORMAT = "surefoot-policy-1"
NORMAL, GUMBEL = "standard normal", "standard Gumbel, −log(−log u) of a uniform u"
STATE, NEXT, START = "state", "next_state", "episode_start"
NOISE, SEEN_NOISE = "noise", "observation_noise"


@dataclass(frozen=True)
class Port:
    """An input or output of the module: its name, type, and shape without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    says: str = ""

    def example(self, batch: int) -> Tensor:
        """A batch of zeros."""
        return torch.zeros(batch, *self.shape, dtype=getattr(torch, self.dtype))

    def described(self) -> dict[str, Any]:
        """The port as JSON-ready data."""
        said = {"says": self.says} if self.says else {}
        return {"name": self.name, "dtype": self.dtype, "shape": ["batch", *self.shape], **said}


def entries_of(space: gym.Space) -> dict[str, gym.Space]:
    """The parts of an observation by key; '' is a plain observation."""
    return dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}


def port_name(kind: str, key: str) -> str:
    """The name of the port of one part of an observation."""
    return f"{kind}.{key}" if key else kind


class Deployed(nn.Module):
    """Base of deployable modules: named tensors in, named tensors out, in the order of `inputs` and `outputs`."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    rules: tuple[Rule, ...] = ()

    def __init__(self, agent: Any) -> None:
        super().__init__()
        self.observation_space, self.action_space = rounded(agent.observation_space), rounded(agent.action_space)
        self.facts = {name: agent.facts[name] for name in FACTS if name in agent.facts}
        self.loop: str = agent.loop
        self.deviations: dict[str, np.ndarray] = getattr(agent, "deviations", {})

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The outputs for the inputs, both in order."""
        found = self.answer(dict(zip((port.name for port in self.inputs), given, strict=True)))
        return tuple(found[port.name] for port in self.outputs)

    def answer(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        raise NotImplementedError

    def examples(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Inputs with which the module can be traced: zeros, or the first value of a discrete entry."""
        made = {port.name: port.example(batch) for port in self.inputs}
        for key, space in entries_of(self.observation_space).items():
            if isinstance(space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
                name = port_name("observation", key)
                made[name] = made[name] + torch.as_tensor(space.start)
        return tuple(made.values())

    def described(self) -> dict[str, Any]:
        """What the file says of itself, as JSON-ready data."""
        return {
            "format": FORMAT,
            "surefoot": version("surefoot"),
            "torch": str(torch.__version__),
            **self.facts,
            "loop": self.loop,
            "actions": "sampled by the input noise" if NOISE in {p.name for p in self.inputs} else "most likely",
            "inputs": [port.described() for port in self.inputs],
            "outputs": [port.described() for port in self.outputs],
            "observation_space": spaces.to_json(self.observation_space),
            "action_space": spaces.to_json(self.action_space),
            "deviations": {key: x.tolist() for key, x in self.deviations.items()},
        }

    def _ports(self, parameters: tuple[int, ...], memory: Port | None, noise: Port | None, seen: list[Port]) -> None:
        """Set the ports, whose order is the same for all modules."""
        entries = entries_of(self.observation_space)
        read = [Port(port_name("observation", key), _dtype(s), tuple(s.shape or ())) for key, s in entries.items()]
        start = Port(START, "bool", says="true in the first step of an episode")
        remembered = [] if memory is None else [memory, start]
        self.inputs = (*read, *seen, *remembered, *([] if noise is None else [noise]))
        kind = "float32" if isinstance(self.action_space, gym.spaces.Box) else "int64"
        action = Port("action", kind, tuple(self.action_space.shape or ()))
        dtype = "float64" if isinstance(self, DeployedTable) else "float32"
        given = [action, Port("parameters", dtype, parameters, "of the distribution of actions")]
        self.outputs = (*given, *([] if memory is None else [replace(memory, name=NEXT)]))


def _dtype(space: gym.Space) -> str:
    """The type in which a runtime gives an observation; its whole numbers are as in the environment."""
    return str(np.dtype(space.dtype))


class _Normalizer(nn.Module):
    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Tensor, inverse_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("inverse_std", inverse_std.clone())

    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, self.mean, self.inverse_std)


class DeployedNetwork(Deployed):
    """An agent with a network. `sample=True` adds the input `noise`."""

    low: Tensor
    high: Tensor

    def __init__(self, agent: Agent, sample: bool = False) -> None:
        super().__init__(agent)
        self.policy = agent.network.make(agent.observation_space, agent.action_space)
        self.policy.load_state_dict({name: x.clone() for name, x in agent.flat.unflatten(agent.vector).items()})
        if hasattr(self.policy, "critic"):
            del self.policy.critic
        self.distribution: Any = agent.distribution
        self.said: Any = agent.module.distribution
        self.rules, self.ask = agent.acting_rules, agent.ask
        if held := [type(rule).__name__ for rule in self.rules if not rule.exported]:
            raise UsageError(
                f"this agent cannot be exported as it acts: its rule {held[0]} draws random numbers or takes gradients "
                "that a file cannot hold. Turn a knob that it has (agent.knobs), or export the network alone: "
                "agent.ruled()."
            )
        self.normalized = [*agent.scales]
        self.normalizers = nn.ModuleList(_Normalizer(*scale) for scale in agent.scales.values())
        self.sigma = float(agent.facts.get("smoothing", 0.0))
        self.noisy = (noisy_keys(agent.observation_space) or ("",)) if self.sigma else ()
        if isinstance(agent.action_space, gym.spaces.Box):
            for name in ("low", "high"):
                bound = torch.as_tensor(getattr(self.action_space, name)).clone()
                self.register_buffer(name, bound)
        entries = entries_of(self.observation_space)
        noise, size = None, int(self.distribution.size)
        if sample:
            noise = self._noise_port()
        memory = Port(STATE, "float32", (self.policy.core_state,)) if self.policy.core_state else None
        seen = [Port(port_name(SEEN_NOISE, k), "float32", tuple(entries[k].shape or ()), NORMAL) for k in self.noisy]
        self._ports((size,), memory, noise, seen)
        self.eval().requires_grad_(False)

    def _noise_port(self) -> Port:
        if isinstance(self.distribution, (Deterministic, Greedy)):
            raise UsageError("sample=True is not allowed: this policy always takes the same action; leave it out.")
        gaussian = isinstance(self.distribution, Gaussian)
        size = self.distribution.dim if gaussian else self.distribution.size
        return Port(NOISE, "float32", (size,), NORMAL if gaussian else GUMBEL)

    def answer(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = {key: given[port_name("observation", key)] for key in entries_of(self.observation_space)}
        for key in self.noisy:
            seen[key] = self._smoothed(seen[key], given[port_name(SEEN_NOISE, key)])
        raw = dict(seen)
        for key, scale in zip(self.normalized, self.normalizers):
            seen[key] = scale(seen[key])
        if self.policy.core_state:
            params, state = self._step({key: x.unsqueeze(0) for key, x in seen.items()}, given[STATE], given[START])
        else:
            params, state = self.policy.policy(self._whole_of(seen))
        if self.rules:
            before = self._whole_of(raw)
            said = Said(self.said, params, self.distribution, before)
            params = followed(self.rules, self.ask, self._whole_of(seen), said).params
        noise = given.get(NOISE)
        drawn = self.distribution.mode(params) if noise is None else self.distribution.sample(params, noise)
        action = self.distribution.to_env(drawn)
        if isinstance(self.action_space, gym.spaces.Box):
            action = action.clamp(self.low, self.high)
        return {"action": action, "parameters": params, **({} if state is None else {NEXT: state})}

    def _step(self, seen: dict[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of one step, and the new memory."""
        params, state = self.policy.policy(self._whole_of(seen), state, starts.unsqueeze(0))  # type: ignore[assignment]
        return params.squeeze(0), state

    def _whole_of(self, seen: dict[str, Tensor]) -> Any:
        return seen if isinstance(self.observation_space, gym.spaces.Dict) else seen[""]

    def _smoothed(self, x: Tensor, noise: Tensor) -> Tensor:
        """As `models.smoothing.noisy`, of the same draws."""
        made = x.double() + self.sigma * noise.double()
        if not x.is_floating_point():
            limits = torch.iinfo(x.dtype)
            made = made.round().clamp(limits.min, limits.max)
        return made.to(x.dtype)


class DeployedTable(Deployed):
    """A table of action probabilities, looked up."""

    table: Tensor

    def __init__(self, agent: TabularAgent, sample: bool = False) -> None:
        super().__init__(agent)
        self.register_buffer("table", agent.policy.clone())
        width = agent.policy.shape[-1] if agent.policy.ndim < 4 else math.prod(agent.policy.shape[-2:])
        noise = Port(NOISE, "float64", (width,), GUMBEL) if sample else None
        memory = Port(STATE, "int64") if agent.policy.ndim > 2 else None
        self._ports((width,), memory, noise, [])
        self.eval()

    def answer(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = given["observation"]
        if self.table.ndim == 2:
            rows = self.table[seen]
            return {"action": self._drawn(rows, given), "parameters": rows}
        memory = torch.where(given[START], torch.zeros_like(given[STATE]), given[STATE])
        rows = self.table[memory, seen].flatten(1)
        drawn = self._drawn(rows, given)
        if self.table.ndim == 3:
            return {"action": drawn, "parameters": rows, NEXT: (memory + 1).clamp(max=len(self.table) - 1)}
        memories = len(self.table)
        return {"action": drawn // memories, "parameters": rows, NEXT: drawn % memories}

    def _drawn(self, rows: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        noise = given.get(NOISE)
        return (rows if noise is None else rows.log() + noise).argmax(-1)


def deployed(agent: Any, sample: bool = False) -> Deployed:
    """The deployable module of an agent: of its most likely actions, or with `sample`, of sampled ones.

    Raises:
        UsageError: it has no such module, or `sample` is set for a policy that draws nothing.
    """
    if isinstance(agent, Agent) and agent.rule is not None:
        raise UsageError(
            f"this agent acts by the {agent.rule.by} of {agent.rule.draws} noisy copies of what it sees, which a file "
            "would have to draw. Load it with surefoot.load where it is to act."
        )
    if isinstance(agent, Agent):
        return DeployedNetwork(agent, sample)
    if isinstance(agent, TabularAgent):
        return DeployedTable(agent, sample)
    if getattr(agent, "loop", "") == "group-rollout":
        raise UsageError(
            "a language model is not exported: its `agent` folder is in the format of transformers (or PEFT) already, "
            "and the tools for these convert it."
        )
    raise UsageError(
        f"{type(agent).__name__} cannot be exported; give an agent of this library, a run or its folder. "
        "Stable-Baselines3's documentation says how its models are exported."
    )
