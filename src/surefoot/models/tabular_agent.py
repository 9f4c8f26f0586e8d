"""An agent whose policy is a table, saved as safetensors and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.errors import UsageError
from surefoot.models.saved import described, read_agent, write_agent

FORMAT = "surefoot-tabular-agent-1"
TOLERANCE = 1e-6  # largest allowed difference of a state's total probability from one


class TabularAgent:
    """A table of action probabilities; `predict` has the same signature as in Stable-Baselines3, on state indices.

    policy: float64, in one of three shapes.
        `[S, A]`: a stationary policy.
        `[H, S, A]`: one for each step of an episode; the last one also applies to any further steps.
        `[M, S, A, M]`: a controller with M memory states: in memory m and state s the joint distribution of the action
        and of the next memory. Episodes start in memory 0.

    Raises `UsageError` for a table of another shape, or with rows that are not distributions.
    """

    loop: ClassVar[str] = "tabular"  # the kind of environments in which it acts

    def __init__(self, policy: Tensor, facts: dict[str, Any] | None = None) -> None:
        self.policy, self.facts = check_policy(policy), facts or {}
        states, actions = self.policy.shape[-3:-1] if self.policy.ndim == 4 else self.policy.shape[-2:]
        self.observation_space, self.action_space = spaces.Discrete(states), spaces.Discrete(actions)

    def __repr__(self) -> str:
        return described(self, f"table {list(self.policy.shape)}")

    def predict(
        self,
        observation: np.ndarray | np.generic | int,
        state: np.ndarray | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray | np.generic, np.ndarray | None]:
        """Actions for a batch of states `[B]` (or one state), and the memory `[B]` if the policy has one.

        `deterministic=True` gives the most likely action (for a controller, with its memory); otherwise one is sampled
        with torch's global generator.
        """
        given = np.asarray(observation)
        seen = torch.as_tensor(self._checked(given).reshape(-1), dtype=torch.int64)
        memory = torch.zeros_like(seen) if state is None else torch.as_tensor(state, dtype=torch.int64).reshape(-1)
        if episode_start is not None:
            memory = torch.where(torch.as_tensor(np.asarray(episode_start), dtype=torch.bool).reshape(-1), 0, memory)
        rows = (self.policy[seen] if self.policy.ndim == 2 else self.policy[memory, seen]).flatten(1)
        drawn = rows.argmax(-1) if deterministic else torch.multinomial(rows, 1).squeeze(-1)
        action, after = drawn, None
        if self.policy.ndim == 3:
            after = (memory + 1).clamp(max=len(self.policy) - 1)
        elif self.policy.ndim == 4:
            action, after = drawn // len(self.policy), drawn % len(self.policy)
        return (action.numpy() if given.ndim else action.numpy()[0]), None if after is None else after.numpy()

    def _checked(self, observation: np.ndarray) -> np.ndarray:
        states = int(self.observation_space.n)
        whole = observation.ndim <= 1 and np.issubdtype(observation.dtype, np.integer)
        if not whole or (observation < 0).any() or (observation >= states).any():
            raise UsageError(
                f"observation={observation!r} is neither a state nor a batch of states: this policy is a table for the "
                f"states 0 … {states - 1}."
            )
        return observation

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        description = {"format": FORMAT, "shape": list(self.policy.shape), **self.facts}
        return write_agent(folder, description, {"policy": self.policy})

    @classmethod
    def load(cls, folder: str | Path) -> TabularAgent:
        """The agent that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such agent, or a damaged one.
        """
        description, tensors = read_agent(folder, FORMAT)
        shape = {name: list(x.shape) for name, x in tensors.items()}
        if shape != {"policy": description.pop("shape", None)}:
            raise UsageError(f"{folder}/agent.safetensors is not the table described in agent.json: it has {shape}.")
        try:
            return cls(tensors["policy"], description)
        except UsageError as error:
            raise UsageError(f"{folder}/agent.safetensors is damaged: {error}") from error


def check_policy(policy: Tensor) -> Tensor:
    """The table of a policy as float64; a `UsageError` for a wrong shape or a row that is not a distribution."""
    table = tensor(policy, "policy").detach()
    shape = tuple(table.shape)
    if not 2 <= table.ndim <= 4 or 0 in shape or (table.ndim == 4 and shape[0] != shape[3]):
        raise UsageError(f"policy has shape {list(shape)}; it must be [S, A], [H, S, A] or [M, S, A, M].")
    rows = normalised(table.flatten(2) if table.ndim == 4 else table)
    wrong = ~((rows >= 0).all(-1) & ((rows.sum(-1) - 1).abs() <= TOLERANCE))  # catches NaN too
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        raise UsageError(
            f"policy[{', '.join(map(str, place))}] = {rows[place].tolist()} is not a distribution over the actions "
            f"({int(wrong.sum())} such rows); probabilities must be at least 0 and sum to one."
        )
    return rows.reshape(shape).contiguous().clone()
