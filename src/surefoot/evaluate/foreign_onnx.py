"""Policies in ONNX files, played by onnxruntime. A file is data: it is read from memory, and opens no other file.

A file of `surefoot export` says which of its inputs and outputs is what. Of any other, inputs are matched to
observations by name and shape, and further inputs to further outputs as a memory, in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.evaluate.foreign_actions import actions_from, fits, wanted
from surefoot.evaluate.foreign_signature import METADATA, Fixed, Given, given_by
from surefoot.files import read_bytes
from surefoot.models.deployed import entries_of
from surefoot.models.spaces import MASK_KEY

TYPES = {"float": "float32", "double": "float64"}  # of ONNX whose names are not NumPy's


class Slot(NamedTuple):
    """An input or output of a file."""

    name: str
    dtype: str
    shape: tuple[Any, ...]  # sizes; a text or None where any is allowed


@dataclass(frozen=True)
class Plan:
    """Which inputs and outputs of a foreign file are what."""

    observed: dict[str, Slot]  # by the key of the observation's entry
    memory: tuple[tuple[Slot, Slot], ...]
    action: str
    one_row: bool  # whether it takes one observation at a time


class OnnxPolicy:
    """A policy in an ONNX file. `spaces_of` makes the environment's spaces, for a file that does not say its own.

    Raises `UsageError` for a file that is no ONNX model, or does not fit the spaces.
    """

    def __init__(self, path: str | Path, spaces_of: Callable[[], tuple[spaces.Space, spaces.Space]]) -> None:
        self.path = Path(path)
        self.session = _session(self.path, read_bytes(path))
        self.inputs = [_slot(x) for x in self.session.get_inputs()]
        self.outputs = [_slot(x) for x in self.session.get_outputs()]
        said = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        self.given: Given | None = None if said is None else given_by(self.path, said)
        self.plan: Plan | None = None
        if self.given is None:
            self.observation_space, self.action_space = spaces_of()
            self.plan = _plan(self.path, self.inputs, self.outputs, self.observation_space, self.action_space)
        else:
            self.observation_space, self.action_space = self.given.observation_space, self.given.action_space
            has = [sorted(slot.name for slot in slots) for slots in (self.inputs, self.outputs)]
            if has != [sorted(self.given.inputs), sorted(self.given.outputs)]:
                raise UsageError(f"{path}: its inputs and outputs {has} are not those that it describes.")

    def __reduce__(self) -> Any:  # for processes, to which policies are sent
        return OnnxPolicy, (self.path, Fixed(self.observation_space, self.action_space))

    @property
    def facts(self) -> dict[str, Any]:
        """What the file says of its training; nothing for most."""
        return {} if self.given is None else self.given.facts

    @property
    def loop(self) -> str:
        """The kind of environments in which it acts."""
        return "on-policy" if self.given is None else self.given.loop

    def run(self, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name, for inputs by name."""
        wanted = {slot.name: slot.dtype for slot in self.inputs}
        fed = {name: np.ascontiguousarray(named[name], dtype=dtype) for name, dtype in wanted.items()}
        return dict(zip((slot.name for slot in self.outputs), self.session.run(None, fed), strict=True))

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions `[batch, ...]` and the new memory; `deterministic` matters only to a file with an input for noise."""
        entries = observation if isinstance(observation, dict) else {"": observation}
        if self.given is not None:
            found = self.run(self.given.named(entries, state, episode_start, deterministic))
            return found["action"], self.given.memory(found)
        assert self.plan is not None
        rows = len(next(iter(entries.values())))
        state = _begun(self.plan, rows, state, episode_start)
        if not self.plan.one_row:
            output, state = self._planned(entries, state)
            return actions_from(output, self.action_space, self._mask(entries)), state
        each = [
            self._planned({k: x[i : i + 1] for k, x in entries.items()}, tuple(m[i] for m in state))
            for i in range(rows)
        ]
        made = tuple(np.stack([kept[m] for _, kept in each]) for m in range(len(state)))
        outputs = np.concatenate([output for output, _ in each])
        return actions_from(outputs, self.action_space, self._mask(entries)), made

    def _mask(self, entries: dict[str, np.ndarray]) -> np.ndarray | None:
        """The mask of allowed actions, where there is one that the file does not take."""
        assert self.plan is not None
        return None if MASK_KEY in self.plan.observed else entries.get(MASK_KEY)

    def _planned(self, entries: dict[str, np.ndarray], state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, Any]:
        assert self.plan is not None
        own = entries_of(self.observation_space)
        named = {slot.name: _shaped(entries[key], own[key], slot) for key, slot in self.plan.observed.items()}
        named |= {slot.name: x for (slot, _), x in zip(self.plan.memory, state)}
        found = self.run(named)
        return found[self.plan.action], tuple(found[after.name] for _, after in self.plan.memory)


def _session(path: Path, data: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{path} needs onnxruntime: pip install 'surefoot[export]' (or onnxruntime).") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no class, and a damaged file may raise any
        raise UsageError(
            f"{path} cannot be read as an ONNX model ({str(error).splitlines()[0]}). Weights must be inside the file "
            "(onnx.save(model, path, save_as_external_data=False)), and operators those of ONNX itself."
        ) from error


def _slot(found: Any) -> Slot:
    name = str(found.type).removeprefix("tensor(").removesuffix(")")
    return Slot(found.name, str(TYPES.get(name, name)), tuple(found.shape))


def _plan(path: Path, inputs: list[Slot], outputs: list[Slot], observed: spaces.Space, acting: spaces.Space) -> Plan:
    """Match the inputs and outputs of a file that does not say what they are; `UsageError` where they do not fit."""
    entries = entries_of(observed)
    chosen = {key: slot for key in entries if (slot := _named(key, inputs)) is not None}
    seen = [key for key in entries if key != MASK_KEY]
    if not chosen and len(seen) == 1 and inputs:
        chosen = {seen[0]: inputs[0]}
    missing = [key for key in seen if key not in chosen]
    if missing:
        raise UsageError(
            f"{path} has the inputs {_listed(inputs)}, and none is named like the observation's {missing}; rename the "
            f"inputs, or give the file an environment with its observations. The observation space is {observed}."
        )
    for key, slot in chosen.items():
        if not _takes(entries[key], slot):
            raise UsageError(
                f"{path} takes an observation of shape {list(slot.shape)} at its input {slot.name!r}; the environment's"
                f" {key or 'observation'} is {entries[key]}. They must agree: if observations were stacked or flattened"
                " in training, the same wrappers are needed here."
            )
    action = next((slot for slot in outputs if fits(slot.shape[1:], "int" in slot.dtype, acting)), None)
    if action is None:
        raise UsageError(
            f"{path} has the outputs {_listed(outputs)}, and none is an action of {acting} or a score for each. "
            f"{wanted(acting)}"
        )
    held, others = [s for s in inputs if s not in chosen.values()], [s for s in outputs if s is not action]
    memory = []
    for slot in held:
        after = next((o for o in others if len(o.shape) == len(slot.shape) and o.shape[-1] == slot.shape[-1]), None)
        if after is None:
            raise UsageError(
                f"{path} has an input {slot.name!r} of shape {list(slot.shape)} that is no observation, and no output "
                "of that shape, so it cannot be a memory. Export it with this input fixed, or write a function "
                "observation -> action around it and give module:function."
            )
        others.remove(after)
        memory.append((slot, after))
    return Plan(chosen, tuple(memory), action.name, next(iter(chosen.values())).shape[:1] == (1,))


def _named(key: str, inputs: list[Slot]) -> Slot | None:
    """The input whose name, or the last word of it, is the key."""
    return next((s for s in inputs if key and key in (s.name, s.name.replace("/", ".").rpartition(".")[2])), None)


def _listed(slots: list[Slot]) -> str:
    return ", ".join(f"{slot.name} {list(slot.shape)} {slot.dtype}" for slot in slots) or "none"


def _takes(space: spaces.Space, slot: Slot) -> bool:
    shape, own = slot.shape[1:], tuple(space.shape or ())
    forms = [own, (math.prod(own),), (own[-1:] + own[:-1]) if len(own) == 3 else own]
    return any(len(shape) == len(f) and all(not isinstance(a, int) or a == b for a, b in zip(shape, f)) for f in forms)


def _shaped(x: np.ndarray, space: spaces.Space, slot: Slot) -> np.ndarray:
    """A batch of one entry in the input's shape: flat, or an image with its channels first."""
    own, shape = tuple(space.shape or ()), slot.shape[1:]
    if len(shape) == len(own) == 3 and any(isinstance(a, int) and a != b for a, b in zip(shape, own)):
        return np.moveaxis(x, -1, 1)
    return x if len(shape) == len(own) else x.reshape(len(x), math.prod(own))


def _begun(plan: Plan, rows: int, state: Any, starts: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """The memory of every row, zero where an episode begins. Each has its batch axis first for a file that takes one
    observation at a time (a memory a row), otherwise where the file's axis is not fixed."""
    made = []
    for i, (slot, _) in enumerate(plan.memory):
        axis = 0 if plan.one_row else _batch_axis(slot)
        if state is None:
            fixed = [n if isinstance(n, int) else 1 for n in slot.shape]
            shape = [rows, *fixed] if plan.one_row else [*fixed[:axis], rows, *fixed[axis + 1 :]]
            made.append(np.zeros(shape, slot.dtype))
        elif starts is not None and starts.any():
            kept = np.expand_dims(~starts, [a for a in range(state[i].ndim) if a != axis])
            made.append(np.where(kept, state[i], np.zeros((), slot.dtype)))
        else:
            made.append(state[i])
    return tuple(made)


def _batch_axis(slot: Slot) -> int:
    return next((axis for axis, size in enumerate(slot.shape) if not isinstance(size, int)), 0)
