"""Group rollouts against TRL's GRPO trainer: completions a second, and where the time goes.

    python benchmarks/bench_language.py [--steps 12] [--turns 5]
    python benchmarks/bench_language.py --memory MODEL [--gguf FILE] [--device cuda] [--rows 8] [--turns 2]

Both on one pinned core and one thread: the same nano model, taught to sort for 300 steps, 16 prompts × 8 completions of
at most 24 tokens, one AdamW step a batch. The first two steps of each turn are not counted. `--memory` compares the
gradient of a batch with one that makes all logits, on a model with a large vocabulary, each in a process of its own:
of a group, whose completions have their prompt in common, and of rows with different prompts. Memory is that of the
process, with an allocator that gives back at once what is freed, or that of the tensors on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peer_sb3 import pin, store
from peer_trl import PROMPTS, SAMPLES, TASK, TOKENS, UNCOUNTED, Timed, timed_steps, trl_trainer

PROMPT, WRITTEN = 32, 96  # tokens of a row of the memory benchmark


def model_folder() -> Path:
    """The nano model that both start from."""
    from surefoot.envs.language import resolve
    from surefoot.loops.group_rollout.language import LanguageOptions, make_model

    model, _ = make_model("nano", resolve(TASK), LanguageOptions(nano_warmup=300), 0)
    return model.save(Path(tempfile.mkdtemp()) / "nano")


def ours(folder: Path, steps: int) -> dict[str, float]:
    from surefoot.envs.language import resolve
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.rewards import make_rewards
    from surefoot.methods.language.baselines import GRPO
    from surefoot.models.language.generation import generate
    from surefoot.models.language.loading import load_model

    method = GRPO(prompts=PROMPTS, samples=SAMPLES, max_tokens=TOKENS, minibatches=1, micro_tokens=1500)
    task, timed = resolve(TASK), Timed()
    learner = LanguageLearner(
        method,
        load_model(folder),
        task,
        make_rewards(task, None, None),
        timed.function(generate),
        learning_rate=1e-4,
    )
    for _ in range(UNCOUNTED):
        learner.iterate()
    timed.start()
    for _ in range(steps):
        learner.iterate()
    return timed.steps(steps)


def theirs(folder: Path, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        return timed_steps(trl_trainer(folder, steps + UNCOUNTED, out), steps, UNCOUNTED)


def speed(steps: int, turns: int) -> None:
    folder = model_folder()
    found: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    for _ in range(turns):
        for name, run in (("ours", ours), ("trl", theirs)):
            found[name].append(run(folder, steps))
    result: dict[str, Any] = {}
    for name, runs in found.items():
        seconds = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        rate = PROMPTS * SAMPLES / seconds["total"]
        result[name] = {"completions_per_second": rate, "seconds_per_step": seconds}
        split = "  ".join(f"{key} {value:.3f} s" for key, value in seconds.items())
        print(f"{name:<6}{rate:>9.1f} completions/s   a step: {split}", flush=True)
    result["ratio"] = {}
    for key in found["ours"][0]:
        ratios = sorted(b[key] / a[key] for a, b in zip(*found.values(), strict=True))
        result["ratio"][key] = [ratios[0], statistics.median(ratios), ratios[-1]]
        print(f"ratio of adjacent turns, {key}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    command = f"python benchmarks/bench_language.py --steps {steps} --turns {turns}"
    store("language_speed", {**result, "command": command, "batch": [PROMPTS, SAMPLES, TOKENS], "task": TASK})


# --- memory ----------------------------------------------------------------------------------------------------------

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed, so that peaks are needs
LAYOUTS = {  # what the rows are, and whether activations are kept
    "one prompt for all rows": ("group", "kept"),
    "different prompts": ("different", "kept"),
    "different prompts, gradient checkpointing": ("different", "recomputed"),
}


def update_step(kind: str, prompts: str, activations: str, given: argparse.Namespace) -> dict[str, float]:
    """Peak memory above the model and its gradient, in bytes, and seconds, of one gradient."""
    import torch

    from surefoot.models.language.loading import load_model
    from surefoot.models.language.sequences import join
    from surefoot.models.language.states import checkpoint_activations

    loaded = load_model(given.memory, device=given.device, **({"gguf_file": given.gguf} if given.gguf else {}))
    loaded.network.train()
    if activations == "recomputed":
        checkpoint_activations(loaded.network)
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 5000, (given.rows, PROMPT + WRITTEN), generator=g).tolist()
    shown = [tokens[0 if prompts == "group" else i][:PROMPT] for i in range(given.rows)]
    batch = join(shown, [row[PROMPT:] for row in tokens])
    ids, valid = batch.tokens.to(loaded.device), batch.valid.to(loaded.device)

    def gradient() -> None:
        if kind == "tiles":
            log_prob = loaded.statistics(batch).log_prob
        else:
            logits = loaded.network(input_ids=ids, use_cache=False).logits[:, :-1].float()
            full = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            log_prob = torch.nn.functional.pad(full, (1, 0)) * valid
        (-log_prob.sum() / valid.sum()).backward()

    for weight in loaded.parameters().values():  # both belong to the model's own memory, and are in it from the start
        weight.data = weight.data.clone()
        weight.grad = torch.empty_like(weight).fill_(0)
    on_gpu = loaded.device.type == "cuda"
    if on_gpu:
        gradient()  # its libraries load
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident()
    began = time.perf_counter()
    gradient()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {"bytes": (torch.cuda.max_memory_allocated() if on_gpu else peak()) - before, "seconds": seconds}


def resident() -> int:
    """Bytes that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """The most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(given: argparse.Namespace) -> None:
    table: dict[str, Any] = {}
    env = os.environ | GIVE_BACK
    for layout, (prompts, activations) in LAYOUTS.items():
        runs: dict[str, list[dict[str, float]]] = {"tiles": [], "full": []}
        for _ in range(given.turns):
            for kind in runs:
                command = [sys.executable, *sys.argv, "--one", kind, prompts, activations]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
                runs[kind].append(json.loads(said.stdout.splitlines()[-1]))
        medians = {k: {key: statistics.median(r[key] for r in found) for key in found[0]} for k, found in runs.items()}
        ratio = {key: medians["tiles"][key] / medians["full"][key] for key in ("bytes", "seconds")}
        print(layout)
        for kind, row in medians.items():
            print(f"  {kind:<8}{row['bytes'] / 2**20:>9.0f} MiB  {row['seconds']:.3f} s")
        print(f"  ratio   {ratio['bytes']:>8.1%} of the memory, {ratio['seconds']:.2f} of the time", flush=True)
        table[layout] = {**medians, "ratio": ratio}
    flags = f"--device {given.device} --rows {given.rows} --turns {given.turns}"
    command = f"python benchmarks/bench_language.py --memory MODEL {flags}"
    name = "language_memory" if given.device == "cpu" else f"language_memory_{given.device}"
    store(name, {**table, "tokens": [given.rows, PROMPT, WRITTEN], "command": command})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", metavar="MODEL", help="a folder or id of a model with a large vocabulary")
    parser.add_argument("--gguf", metavar="FILE", help="its file, if it is one")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the gradient is made")
    parser.add_argument("--rows", type=int, default=8, help="completions in the batch")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    pin()
    if given.one:
        print(json.dumps(update_step(*given.one, given)))
    elif given.memory:
        memory(given)
    else:
        speed(given.steps, given.turns)


if __name__ == "__main__":
    main()
