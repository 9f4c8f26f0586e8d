"""Export of an agent to ONNX or TorchScript, each file compared with the agent before it is handed over.

Both are made from one module (`surefoot.models.deployed`), and both are compared as they will be used: the file is read
back and played beside the agent, on states of the environment and on random ones.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from surefoot.errors import UsageError
from surefoot.evaluate.export_check import ROWS, Differences, compared, states_of
from surefoot.evaluate.foreign_signature import METADATA
from surefoot.evaluate.player import load
from surefoot.files import sync
from surefoot.hyperparameters import check_count
from surefoot.loops.common.run import Run
from surefoot.models.deployed import Deployed, deployed

SUFFIXES = (".onnx", ".pt")


@dataclass(frozen=True)
class Exported:
    """A file, and how far it is from the agent over all states that were compared."""

    path: Path
    states: int
    played: int  # states of the environment; the others are random
    differences: Differences
    discrete: bool
    without: str  # why there are no states of the environment; empty if there are

    def __str__(self) -> str:
        action, parameters, others = self.differences
        where = f"{self.played:,} of the environment, {self.states - self.played:,} random"
        said = f"largest difference of an action {action:.2g}, of a parameter {parameters:.2g}"
        if self.discrete:
            said = (
                f"{others} other actions{' (ties)' if others else ''}, largest difference of a score {parameters:.2g}"
            )
        why = f"\nno states of the environment: {self.without}" if self.without else ""
        return f"{self.path}: {self.states:,} states compared with the agent ({where}): {said}{why}"


def export(
    policy: Any,
    path: str | Path,
    env: Any = None,
    *,
    sample: bool = False,
    states: int = 1000,
    seed: int | None = None,
    trust: bool = False,
) -> Exported:
    """Write an agent as `policy.onnx` or, as TorchScript, `policy.pt`, and compare the file with the agent.

    Args:
        policy: an agent, a run or its folder (`seed` names one of its seeds).
        path: of the file; its ending decides.
        env: environment of the states that are compared, by default the agent's own. Half of them are random, all of
            them where there is no environment.
        sample: sample actions by an input for noise, instead of taking the most likely one.
        states: number of states compared.
        trust: import and call what the run's folder names as `module:name`.

    Raises:
        UsageError: the agent cannot be exported, or the file differs from it; it is then removed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UsageError(f"path={str(path)!r} is not allowed; it must end in .onnx, or in .pt for TorchScript.")
    check_count("states", states)
    agent = load(policy, seed) if isinstance(policy, (str, Path, Run)) else policy
    module = deployed(agent, sample)
    batches, played, without = states_of(agent, env, states, trust)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        (_write_onnx if path.suffix == ".onnx" else _write_script)(module, draft)
        found = compared(agent, module, draft, path, batches)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)
    discrete = not isinstance(module.action_space, gym.spaces.Box)
    return Exported(path, len(batches) * ROWS, played, found, discrete, without)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_script(module: Deployed, path: Path) -> None:
    with _quiet():
        if module.rules:
            traced: Any = torch.jit.script(_with_overloads(_graph(module)))
        else:
            traced = torch.jit.trace(module, module.examples(), check_trace=False)
        extra = {METADATA: json.dumps(module.described())}
        torch.jit.save(torch.jit.freeze(traced, optimize_numerics=False), path, _extra_files=extra)


def _write_onnx(module: Deployed, path: Path) -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{path.suffix} files need {error.name}: pip install 'surefoot[export]'.") from error
    batch = torch.export.Dim("batch", min=1)
    axes = tuple({0: batch} for _ in module.inputs)
    with _quiet():
        program: Any = torch.onnx.export(
            _graph(module) if module.rules else module,
            module.examples(),
            input_names=[port.name for port in module.inputs],
            output_names=[port.name for port in module.outputs],
            dynamic_shapes=axes if module.rules else (axes,),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    said = model.metadata_props.add()
    said.key, said.value = METADATA, json.dumps(module.described())
    model.producer_name, model.doc_string = "surefoot", f"A policy of {module.facts.get('method', 'Surefoot')}."
    path.write_bytes(model.SerializeToString())


def _graph(module: Deployed) -> torch.fx.GraphModule:
    """The module as one graph of operations: gradients that its acting rules take become operations like any other."""
    with torch.no_grad():
        make = make_fx(module, tracing_mode="symbolic", _allow_non_fake_inputs=True)  # its weights are constants
        return make(*module.examples(3)).eval()  # 3: sizes of 0 and 1 would be taken for constants


def _with_overloads(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """The graph in operations that TorchScript knows: by name, of any types, and sizes by method."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.sym_size.int:
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.call_method("size", node.args))
            graph.graph.erase_node(node)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket
    graph.recompile()
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of the exporters, which are about their own insides."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
