"""Whether a real vLLM server writes with the adapter that learns: to be run where there is a GPU.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16 \
        --logprobs-mode processed_logprobs --gpu-memory-utilization 0.4 &
    python benchmarks/check_vllm_server.py MODEL --server http://localhost:8000 [--steps 5] [--dtype bfloat16]

GRPO with an adapter at a step size that moves it; `engine_gap`, the mean distance in nats between the server's and the
model's likelihoods of what was written, must stay small while the adapter changes, and is the same order as that of
engine='own' in the same data type. Prints both, and the completions a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import surefoot as sf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--server", default="http://localhost:8000")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    sizes = {"prompts": 8, "samples": 8, "max_tokens": 64, "learning_rate": 1e-4, "lora": 16, "dtype": given.dtype}
    for engine, more in (("own", {}), ("vllm-server", {"server": given.server})):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run = sf.train(
                "grpo",
                task="arithmetic",
                model=given.model,
                steps=given.steps,
                engine=engine,
                run_dir=Path(folder) / "run",
                loggers=(),
                patience=None,
                reward=varied,
                **sizes,
                **more,
            )
            seconds = time.perf_counter() - began
            gaps = [row["engine_gap"] for row in run.metrics() if "engine_gap" in row]
        pace = given.steps * sizes["prompts"] * sizes["samples"] / seconds
        print(f"{engine:<12} engine_gap {', '.join(f'{gap:.2g}' for gap in gaps)}; {pace:.1f} completions/s")


def varied(completions: list[str], **_: object) -> list[float]:
    """Rewards that differ, whatever is written."""
    return [sum(map(ord, text)) % 7 / 7 for text in completions]


if __name__ == "__main__":
    main()
