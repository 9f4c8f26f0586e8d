"""Episodes of several turns with and without the memory of earlier ones: seconds a batch, and the share of generation.

    python benchmarks/bench_turns.py [--prompt 200] [--said 40] [--max-tokens 12] [--turns 8] [--repeats 5]

A nano model with random weights, 8 prompts × 8 episodes, one pinned core and thread, alternating. The environment
says the same in every turn; all episodes go to the last one. Both write the same tokens; their likelihoods differ by
rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any
from unittest.mock import patch

from peer_sb3 import pin, store

PROMPTS, SAMPLES = 8, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("prompt", 200), ("said", 40), ("max-tokens", 12), ("turns", 8), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    given = parser.parse_args()
    pin()
    import torch

    from surefoot.envs.language.episodes import Episodes
    from surefoot.loops.group_rollout import turns
    from surefoot.models.language.generation import conversing, generate
    from surefoot.models.language.nano import Nano, fresh
    from surefoot.seeding import torch_stream

    class Listening:
        def reset(self, seed: int) -> str:
            return str(seed % 10) * given.prompt

        def step(self, text: str) -> tuple[str, float, bool]:
            return "." * given.said, 0.0, False

    task = Episodes(env=Listening, max_turns=given.turns)
    context = given.prompt + given.turns * (given.said + given.max_tokens) + 8
    model = fresh(Nano(width=given.width, layers=given.layers, context=context, warmup=0), seed=0)
    examples = [task.example(i) for i in range(PROMPTS)]

    def whole(engine: Any, model: Any, prompts: Any, uniform: Any, **settings: Any) -> Any:
        """Turns are written in full: none of them counts as cut off, so that all episodes are equally long."""
        found = engine(model, prompts, uniform, **settings)
        return type(found)(found.tokens, found.log_prob, [True] * len(found.tokens))

    seconds: dict[str, list[float]] = {"read again": [], "remembered": []}
    written: dict[str, Any] = {}
    with patch.object(turns, "conversing", lambda engine: engine):
        for _ in range(given.repeats):
            for name, engine in (("read again", generate), ("remembered", conversing(generate))):
                began = time.perf_counter()
                talks = turns.converse(
                    task,
                    model,
                    partial(whole, engine),
                    examples,
                    lambda turn: torch.rand(
                        PROMPTS, SAMPLES, given.max_tokens, generator=torch_stream(0, "episodes", turn)
                    ),
                    temperature=1.0,
                )
                seconds[name].append(time.perf_counter() - began)
                written[name] = talks
    same = [a.tokens == b.tokens for a, b in zip(*written.values(), strict=True)]
    gap = max(
        abs(x - y) for a, b in zip(*written.values(), strict=True) for x, y in zip(a.log_prob, b.log_prob, strict=False)
    )
    length = statistics.mean(len(talk.prompt) + len(talk.tokens) for talk in written["remembered"])
    again, known = (statistics.median(seconds[name]) for name in seconds)
    print(f"{sum(same)} of {len(same)} episodes the same, likelihoods within {gap:.1e}; {length:.0f} tokens each")
    print(f"read again {again:.2f} s, remembered {known:.2f} s: {again / known:.2f} times as fast")
    facts = {"same": sum(same), "episodes": len(same), "largest_gap": gap, "length": length, "ratio": again / known}
    store("language_turns", {**facts, "seconds": seconds, "setting": vars(given)})


if __name__ == "__main__":
    main()
