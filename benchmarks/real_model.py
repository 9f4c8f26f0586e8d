"""GRPO on a real language model: an adapter learns one-digit sums of reasoning-gym by reward, over several seeds.

    python benchmarks/real_model.py MODEL [--gguf FILE] [--steps 60] [--seeds 3] [--learning-rate RATE] [--device cpu]
    python benchmarks/real_model.py MODEL --steps 300 --seeds 1 --learning-rate 3e-4     # collapses, and says so

8 prompts × 8 completions of at most 4 tokens a step, LoRA of rank 16, without --learning-rate at our default for it.
Before and after, the model answers 64 held-out prompts 4 times at temperature 1, from the same random numbers; the gain
is the mean difference of the rewards, its interval a 95 % bootstrap over the prompts, and over seeds Student's. Of a
run that was found to have collapsed, the best weights are judged too. Runs that were cut off go on from their last
checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import surefoot as sf
from peer_sb3 import store
from surefoot.claims.language.learning import held_out
from surefoot.envs.language import resolve
from surefoot.evaluate.statistics import confidence_interval, mean

TASK = "reasoning_gym:chain_sum,min_terms=2,max_terms=2,min_digits=1,max_digits=1"
SIZES: dict[str, Any] = {"prompts": 8, "samples": 8, "max_tokens": 4}
STOP, HELD_OUT, ANSWERS = ("\n",), 64, 4


def rewards(model: Any) -> np.ndarray:
    """The mean reward of the answers to each held-out prompt."""
    return held_out(model, resolve(TASK), HELD_OUT, ANSWERS, SIZES["max_tokens"], stop=STOP).mean(1)


def judged(agent: Any, device: str) -> tuple[np.ndarray, np.ndarray]:
    """The rewards of an agent, and those of the model without its adapter."""
    trained = agent.model.to(device)
    after = rewards(trained)
    with trained.as_reference() as network:
        return after, rewards(type(trained)(network, trained.tokenizer))


def one(given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The run of a seed: before, after, and the gain with its interval."""
    options: dict[str, Any] = {"model_options": {"gguf_file": given.gguf}} if given.gguf else {}
    if given.learning_rate is not None:
        options["learning_rate"] = given.learning_rate
    options |= {"model": given.model, "lora": 16, "stop": STOP, "device": given.device, "seed": seed, **SIZES}
    folder = given.run / f"seed-{seed}"
    if (folder / "checkpoints").exists():
        run = sf.resume(folder)
    else:
        run = sf.train("grpo", task=TASK, steps=given.steps, run_dir=folder, checkpoint_every=5, **options)
    after, before = judged(sf.load(run.path), given.device)
    collapsed = next((row["collapsed"] for row in run.metrics() if "collapsed" in row), None)
    found = {"before": float(before.mean()), "after": float(after.mean()), "gain": bounds(after - before)}
    if collapsed is not None:
        best, _ = judged(sf.load(run.path, best=True), given.device)
        found |= {"collapsed": collapsed, "best": float(best.mean())}
    return {"seed": seed, **found, "curve": [row["return_mean"] for row in run.metrics()]}


def bounds(values: np.ndarray) -> list[float]:
    """The mean of some numbers, and its interval."""
    low, high = confidence_interval(values, mean) or (float("nan"),) * 2
    return [float(values.mean()), low, high]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", type=Path, default=Path("runs/real_model"))
    given = parser.parse_args()
    runs = []
    for seed in range(given.seeds):
        runs.append(found := one(given, seed))
        said = ""
        if "collapsed" in found:
            said = f"; collapsed, as found in iteration {found['collapsed']:g}, and {found['best']:.3f} with its best"
        print(f"seed {seed}: {found['before']:.3f} before, {found['after']:.3f} after{said}", flush=True)
    facts = {"steps": given.steps, "learning_rate": given.learning_rate, "device": given.device}
    gain = bounds(np.array([found["gain"][0] for found in runs]))
    print(f"gain over seeds {gain[0]:.3f} [{gain[1]:.3f}, {gain[2]:.3f}]")
    rate = "" if given.learning_rate is None else f"_{given.learning_rate:g}"
    name = f"language_real_model_{given.steps}{rate}"
    store(name, {"gain": gain, "runs": runs, "task": TASK, "sizes": SIZES, **facts})


if __name__ == "__main__":
    main()
