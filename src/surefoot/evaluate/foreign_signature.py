"""What a file of `surefoot export` says of itself: its spaces, and which input and output is what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.files import parsed_json
from surefoot.models.deployed import FORMAT, GUMBEL, NEXT, NOISE, SEEN_NOISE, START, STATE, entries_of, port_name
from surefoot.models.saved import FACTS, wrong_fact
from surefoot.models.spaces import from_json

METADATA = "surefoot"  # the key of an ONNX file's metadata, or the name of a TorchScript archive's extra file
LARGEST = 2**24  # entries of a space
LOOPS = ("on-policy", "off-policy", "tabular")


class Fixed(NamedTuple):
    """The spaces of an environment, as a function that a process can be sent."""

    observation_space: spaces.Space
    action_space: spaces.Space

    def __call__(self) -> tuple[spaces.Space, spaces.Space]:
        return self.observation_space, self.action_space


@dataclass(frozen=True)
class Given:
    """The inputs of an exported file, made from what a policy is given."""

    observation_space: spaces.Space
    action_space: spaces.Space
    inputs: dict[str, tuple[str, tuple[int, ...], str]]  # type, shape without the batch axis, law of a noise
    outputs: tuple[str, ...]
    deviations: dict[str, np.ndarray]  # of the agent's normaliser, by key
    facts: dict[str, Any]
    loop: str  # the kind of environments in which it acts

    def named(
        self, entries: dict[str, np.ndarray], state: Any, starts: np.ndarray | None, deterministic: bool
    ) -> dict[str, np.ndarray]:
        """All inputs by name. Noise is drawn from torch's global generator; that of actions is zero where the most
        likely one is asked for."""
        own = entries_of(self.observation_space)
        if missing := own.keys() - entries.keys():
            raise UsageError(f"the observation lacks {sorted(missing)}; the policy was exported for {own}.")
        made = {port_name("observation", key): np.asarray(entries[key]) for key in own}
        rows = len(next(iter(made.values())))
        for name, (dtype, shape, law) in self.inputs.items():
            if name == STATE:
                made[name] = np.zeros((rows, *shape), dtype) if state is None else state
            elif name == START:
                first = np.full(rows, state is None) if starts is None else np.asarray(starts, bool)
                made[name] = np.ones(rows, bool) if state is None else first
            elif name == NOISE or name.partition(".")[0] == SEEN_NOISE:
                made[name] = _drawn((rows, *shape), dtype, law, name == NOISE and deterministic)
        return made

    @staticmethod
    def memory(found: Mapping[str, Any]) -> Any:
        """The new memory among the outputs; None without one."""
        return found.get(NEXT)


def _drawn(shape: tuple[int, ...], dtype: str, law: str, none: bool) -> np.ndarray:
    if none:
        return np.zeros(shape, dtype)
    if law == GUMBEL:
        uniform = torch.rand(shape).clamp_(min=1e-30)
        return (-torch.log(-torch.log(uniform))).numpy().astype(dtype)
    return torch.randn(shape, dtype=torch.float64).numpy().astype(dtype)


def given_by(path: Path, text: str) -> Given:
    """The description in a file, checked as if a stranger had written it; `UsageError` if it is damaged."""
    try:
        found = parsed_json(text)
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, not {FORMAT}")
        inputs = {
            str(port["name"]): (str(port["dtype"]), tuple(int(n) for n in port["shape"][1:]), str(port.get("says", "")))
            for port in found["inputs"]
        }
        outputs = tuple(str(port["name"]) for port in found["outputs"])
        deviations = {str(k): np.asarray(x, np.float64) for k, x in found.get("deviations", {}).items()}
        facts = {name: found[name] for name in FACTS if name in found}
        if (name := wrong_fact(facts)) is not None or found[(name := "loop")] not in LOOPS:
            raise ValueError(f"{name}={found[name]!r} is not allowed")
        observed, acting = (from_json(found[name], LARGEST) for name in ("observation_space", "action_space"))
        needed = {port_name("observation", key) for key in entries_of(observed)}
        if not needed <= inputs.keys() or not {"action", "parameters"} <= {*outputs}:
            raise ValueError(f"it has the inputs {sorted(inputs)} and the outputs {sorted(outputs)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: what it says of itself is damaged ({error}); export it again.") from error
    return Given(observed, acting, inputs, outputs, deviations, facts, found["loop"])
