"""d3rlpy's TD3+BC, IQL and PRDC for `bench_offline.py`. Runs in its own environment, on one thread.

    python peer_d3rlpy.py step METHOD IN.npz OUT.npz           losses, gradients and one update from given weights
    python peer_d3rlpy.py speed METHOD DATA.h5 CHUNK           gradient steps, a chunk for each line of input
    python peer_d3rlpy.py train METHOD DATA.h5 STEPS SEED OUT.npz
    python peer_d3rlpy.py versions

Networks are exchanged as arrays `NETWORK/NUMBER`, weight and bias of one layer after another.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import d3rlpy
import numpy as np
import structlog
import torch
from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.preprocessing import StandardObservationScaler
from d3rlpy.torch_utility import TorchMiniBatch

torch.set_num_threads(1)
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
CONFIGS = {
    "td3-bc": d3rlpy.algos.TD3PlusBCConfig,
    "iql": d3rlpy.algos.IQLConfig,
    "prdc": d3rlpy.algos.PRDCConfig,
}
LOWEST, HIGHEST = -5.0, 2.0  # of the log standard deviation of IQL's policy, a sigmoid of its parameter


def made(name: str) -> Any:
    """The algorithm with its own defaults: batches of 256, two layers of 256, Adam(3e-4)."""
    return CONFIGS[name](observation_scaler=StandardObservationScaler(eps=1e-3)).create(device=False)


# --- one update ------------------------------------------------------------------------------------------------------


def layers(module: Any) -> list[torch.Tensor]:
    """Weight and bias of every linear layer in turn."""
    linear = [one for one in module.modules() if isinstance(one, torch.nn.Linear)]
    return [x for one in linear for x in (one.weight, one.bias)]


def networks(modules: Any, targets: bool = True) -> dict[str, list[torch.Tensor]]:
    """The parameters of every network by name."""
    found = {"actor0": modules.policy} | {f"critic{i}": q for i, q in enumerate(modules.q_funcs)}
    if hasattr(modules, "value_func"):
        found["value0"] = modules.value_func
    if targets:
        found |= {f"target-critic{i}": q for i, q in enumerate(modules.targ_q_funcs)}
        if hasattr(modules, "targ_policy"):
            found["target-actor0"] = modules.targ_policy
    return {name: layers(one) for name, one in found.items()}


def step(name: str, source: str, target: str) -> None:
    """The losses and gradients of one batch, and all weights after one update and one move of the targets."""
    given = dict(np.load(source))
    data = {key[6:]: torch.from_numpy(x) for key, x in given.items() if key.startswith("batch/")}
    rows, actions = data["action"].shape
    algorithm = made(name)
    if name == "prdc":
        algorithm._nbsr.fit(given["pairs"])
    algorithm.create_impl((data["observation"].shape[1],), actions)
    impl = algorithm.impl
    modules = impl._modules
    with torch.no_grad():
        for network, parameters in networks(modules).items():
            for i, x in enumerate(parameters):
                x.copy_(torch.from_numpy(given[f"{network}/{i}"]))
    if name == "iql":
        share = (torch.from_numpy(given["log_std"]) - LOWEST) / (HIGHEST - LOWEST)
        with torch.no_grad():
            modules.policy._logstd.copy_(torch.logit(share))
    column = {key: data[key].reshape(rows, 1) for key in ("reward", "terminal")}
    batch = TorchMiniBatch(
        observations=data["observation"],
        actions=data["action"],
        rewards=column["reward"],
        next_observations=data["next_observation"],
        next_actions=torch.zeros_like(data["action"]),
        returns_to_go=torch.zeros(rows, 1),
        terminals=column["terminal"],
        intervals=torch.ones(rows, 1),
        device="cpu",
    )
    torch.randn = lambda *shape, **options: data["noise"]  # the noise of the target policy
    found: dict[str, Any] = {}

    def critics() -> None:
        loss = impl.compute_critic_grad(batch)
        parts = {"critic": loss.q_loss, "value": loss.v_loss} if name == "iql" else {"critic": loss.critic_loss}
        found.update({f"loss/{key}": x.detach() for key, x in parts.items()})
        keep("critic", "value")
        modules.critic_optim.step()

    def actor() -> None:
        found["loss/actor"] = impl.compute_actor_grad(batch).actor_loss.detach()
        keep("actor")
        if name == "iql":
            slope = (HIGHEST - LOWEST) * share * (1 - share)  # of the log deviation in its parameter
            found["gradient/log_std"] = modules.policy._logstd.grad[0] / slope
        modules.actor_optim.step()

    def keep(*kinds: str) -> None:
        for network, parameters in networks(modules, targets=False).items():
            if network[:-1] in kinds:
                found.update({f"gradient/{network}/{i}": x.grad.clone() for i, x in enumerate(parameters)})

    # Theirs updates IQL's policy by V after its step, ours by V before: here both by V before.
    for part in (actor, critics) if name == "iql" else (critics, actor):
        part()
    impl.update_critic_target()
    if hasattr(impl, "update_actor_target"):
        impl.update_actor_target()
    for network, parameters in networks(modules).items():
        found |= {f"after/{network}/{i}": x.detach() for i, x in enumerate(parameters)}
    np.savez(target, **{key: np.asarray(x) for key, x in found.items()})


# --- many ------------------------------------------------------------------------------------------------------------


def fit(algorithm: Any, buffer: Any, steps: int, chunk: int, after: Any = None) -> None:
    """Their training loop without files and without a progress bar; `after` is called at the end of every chunk."""
    quiet = {"logger_adapter": NoopAdapterFactory(), "show_progress": False, "save_interval": steps}
    algorithm.fit(buffer, n_steps=steps, n_steps_per_epoch=chunk, epoch_callback=after, **quiet)


def speed(name: str, path: str, chunk: int) -> None:
    """Print the seconds of a chunk of their training loop for each line `loop`, of updates alone for `update`."""
    buffer = ReplayBuffer.load(path, InfiniteBuffer())
    began = time.perf_counter()

    def turn(algorithm: Any, epoch: int, total: int) -> None:
        nonlocal began
        print(json.dumps(time.perf_counter() - began), flush=True)
        for line in sys.stdin:
            if line.strip() == "stop":
                sys.exit()
            batch = buffer.sample_transition_batch(256)
            began = time.perf_counter()
            if line.strip() == "loop":
                return
            for _ in range(chunk):
                algorithm.update(batch)
            print(json.dumps(time.perf_counter() - began), flush=True)

    fit(made(name), buffer, 10**6 * chunk, chunk, turn)


def train(name: str, path: str, steps: int, seed: int, target: str) -> None:
    """Train, and write the policy's layers and the scale of its observations."""
    d3rlpy.seed(seed)
    algorithm = made(name)
    fit(algorithm, ReplayBuffer.load(path, InfiniteBuffer()), steps, min(steps, 10_000))
    found = {f"actor0/{i}": x.detach().numpy() for i, x in enumerate(layers(algorithm.impl.policy))}
    scaler = algorithm.observation_scaler
    np.savez(target, mean=scaler.mean, deviation=scaler.std + scaler.eps, **found)


def versions() -> None:
    """Print what the figures depend on."""
    print(json.dumps({"d3rlpy": d3rlpy.__version__, "torch": torch.__version__}))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    typed = [int(x) if x.isdecimal() else x for x in arguments]
    {"step": step, "speed": speed, "train": train, "versions": versions}[command](*typed)
