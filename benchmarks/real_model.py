"""GRPO on a real language model: an adapter learns one-digit sums of reasoning-gym by reward.

    python benchmarks/real_model.py MODEL [--gguf FILE] [--steps 30] [--learning-rate 3e-4] [--device cpu] [--run DIR]

8 prompts × 8 completions of at most 4 tokens a step, LoRA of rank 16. Before and after, the model answers 64 held-out
prompts 4 times at temperature 1, from the same random numbers; the gain is the mean difference of the rewards, its
interval a 95 % bootstrap over the prompts. A run that was cut off goes on from its last checkpoint.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--run", type=Path, default=Path("runs/real_model"))
    given = parser.parse_args()
    options: dict[str, Any] = {"model_options": {"gguf_file": given.gguf}} if given.gguf else {}
    if (given.run / "checkpoints").exists():
        run = sf.resume(given.run)
    else:
        options |= {
            "model": given.model,
            "lora": 16,
            "stop": STOP,
            "device": given.device,
            "learning_rate": given.learning_rate,
        }
        run = sf.train("grpo", task=TASK, steps=given.steps, run_dir=given.run, checkpoint_every=5, **SIZES, **options)
    trained = sf.load(run.path).model.to(given.device)
    after = rewards(trained)
    with trained.as_reference() as network:
        before = rewards(type(trained)(network, trained.tokenizer))
    gain = after - before
    low, high = confidence_interval(gain, mean) or (float("nan"),) * 2
    print(f"held-out reward {before.mean():.3f} before, {after.mean():.3f} after")
    print(f"gain {gain.mean():.3f} [{low:.3f}, {high:.3f}]")
    result: dict[str, Any] = {"before": float(before.mean()), "after": float(after.mean())}
    result |= {"gain": [float(gain.mean()), low, high], "curve": [row["return_mean"] for row in run.metrics()]}
    facts = {"steps": given.steps, "learning_rate": given.learning_rate, "device": given.device}
    name = "language_real_model" if given.steps == 30 else f"language_real_model_{given.steps}"
    store(name, {**result, "task": TASK, "sizes": SIZES, **facts})


if __name__ == "__main__":
    main()
