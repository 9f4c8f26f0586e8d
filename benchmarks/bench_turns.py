"""Episodes of several turns with and without the memory of earlier ones, and against TRL's loop of turns with a tool.

    python benchmarks/bench_turns.py [--prompt 200] [--said 40] [--max-tokens 12] [--turns 8] [--repeats 5]
    python benchmarks/bench_turns.py --peer PEER/bin/python [--turns 4] [--said 40] [--steps 1] [--repeats 5]

A nano model with random weights, 8 prompts × 8 episodes, one pinned core and thread, alternating. The environment
says the same in every turn; all episodes go to the last one. Both write the same tokens; their likelihoods differ by
rounding.

With `--peer`, a Python that has TRL: GRPO steps of both on the same model, which was taught to answer everything by the
call of a tool with ten random digits; the tool says `--said` characters. Template, tool, calls and lengths are the
same; every episode ends after `--turns` calls. Each runs in turn in a process of its own on one core and one thread.
TRL reads the whole conversation again in every turn. Figures are medians, and ratios of adjacent runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from peer_sb3 import pin, store
from peer_trl import ASKED, HEAT, TALKS, Timed, odd, question, tool

PROMPTS, SAMPLES = 8, 8


TEMPLATE = """{% for m in messages %}{% if m.role == "assistant" %}assistant:{{ m.content }}\
{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<eos>\
{% else %}{{ m.role }}:{{ m.content }};{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""


def memory(given: argparse.Namespace) -> None:
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


# --- against TRL -----------------------------------------------------------------------------------------------------


def call(number: int) -> str:
    """A call of the tool with ten digits that look random."""
    return f'<tool_call>{{"name": "look", "arguments": {{"x": "{number * 2654435761 % 10**10:010d}"}}}}</tool_call>'


def taught(turns: int, said: int) -> Any:
    """A nano model that answers by a call, in whichever of the turns it is."""
    from surefoot.models.language.nano import Nano, fresh, imitate

    def example(i: int) -> Any:
        known = question(i)
        for turn in range(i % turns):
            text = call(i * turns + turn)
            answer = tool(said)(text[-25:-15])  # its digits
            known = [*known, {"role": "assistant", "content": text}, {"role": "tool", "content": answer}]
        return known, call(turns * i + turns - 1)

    size = Nano(context=150 + (110 + said) * turns, warmup=150, batch=8)
    model = fresh(size)
    model.tokenizer.chat_template = TEMPLATE
    losses = imitate(model, example, size)
    print(f"taught to call: loss {losses[0]:.2f} to {losses[-1]:.3f} a token", flush=True)
    return model


def ours(folder: str, turns: int, said: int, steps: int) -> dict[str, Any]:
    import torch

    from surefoot.envs.language import Example, Task
    from surefoot.envs.language.episodes import Tools
    from surefoot.loops.group_rollout import writing
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.rewards import make_rewards
    from surefoot.methods.language.baselines import GRPO
    from surefoot.models.language.generation import generate
    from surefoot.models.language.loading import load_model

    torch.set_num_threads(1)

    class Questions(Task):
        def example(self, index: int, split: str = "train") -> Example:
            return Example(question(index))

    task, timed = Tools(task=Questions(), functions=[tool(said)], max_turns=turns), Timed()
    method = GRPO(prompts=ASKED, samples=TALKS, max_tokens=100, temperature=HEAT, minibatches=1)
    learner = LanguageLearner(
        method, load_model(folder), task, make_rewards(task, odd, None), generate, learning_rate=1e-6
    )
    written: list[list[int]] = []

    def kept(*args: Any, **named: Any) -> Any:
        talks = timed.function(converse)(*args, **named)
        written.append([sum(turn >= 0 for turn in talk.turn) for talk in talks])
        return talks

    converse = writing.turns.converse
    with patch.object(writing.turns, "converse", kept):
        learner.iterate()  # not timed
        timed.start()
        for _ in range(steps):
            learner.iterate()
    return {**timed.steps(steps), "written": written[-1]}


def against(given: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    here = Path(__file__)
    with tempfile.TemporaryDirectory() as folder:
        taught(given.turns, given.said).save(folder)
        counts = {"turns": given.turns, "said": given.said, "steps": given.steps}
        named = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
        flags = [
            [sys.executable, str(here), "--ours", folder, *named],
            [given.peer, str(here.with_name("peer_trl.py")), folder, *map(str, counts.values())],
        ]
        for _ in range(given.repeats):
            for name, command in zip(found, flags, strict=True):
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
                found[name].append(json.loads(said.stdout.splitlines()[-1]))
    result: dict[str, Any] = {}
    for name, runs in found.items():
        lengths = [n for run in runs for n in run.pop("written")]
        seconds = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        usual = statistics.mode(lengths)
        result[name] = {"seconds_per_step": seconds, "written": usual, "share": lengths.count(usual) / len(lengths)}
        print(f"{name:<5} a step: " + "  ".join(f"{key} {value:.2f} s" for key, value in seconds.items()))
        print(f"      {usual} tokens written in {result[name]['share']:.1%} of the episodes")
    result["ratio"] = {}
    for key in found["ours"][0]:
        ratios = sorted(b[key] / a[key] for a, b in zip(*found.values(), strict=True))
        result["ratio"][key] = [ratios[0], statistics.median(ratios), ratios[-1]]
        print(f"ratio of adjacent turns, {key}: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    facts = {**counts, "repeats": given.repeats, "episodes": [ASKED, TALKS]}
    store(f"language_tools_{given.said}", {**result, **facts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("prompt", 200), ("said", 40), ("max-tokens", 12), ("turns", 8), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with TRL, to compare with its loop of turns")
    parser.add_argument("--steps", type=int, default=1, help="timed steps of a run")
    parser.add_argument("--ours", metavar="MODEL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    pin()
    if given.ours:
        print(json.dumps(ours(given.ours, given.turns, given.said, given.steps)))
    elif given.peer:
        against(given)
    else:
        memory(given)


if __name__ == "__main__":
    main()
