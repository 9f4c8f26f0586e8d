"""TRL's GRPO on the same model, task, batch and lengths as ours; and, run by itself, its loop of turns with a tool.

    PEER/bin/python benchmarks/peer_trl.py MODEL TURNS SAID STEPS

prints the seconds of such steps, and what was written, as one line of JSON; MODEL is what `bench_turns.py` made.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, TOKENS, TASK = 16, 8, 24, "sorting:count=6,below=100"
UNCOUNTED = 2  # steps at the beginning that are not timed

# Turns with a tool.
ASKED, TALKS = 4, 8  # prompts, and episodes of each
HEAT = 0.5  # the temperature, at which the taught calls are nearly always well-formed
PARSED = {  # how TRL reads calls
    "defaults": {"role": "assistant"},
    "start_anchor": "assistant:",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": "<eos>", "content": "text"},
    },
}


def tool(said: int) -> Callable[[str], str]:
    """A tool that says so many characters."""

    def look(x: str) -> str:
        """Look something up.

        Args:
            x: What to look up.
        """
        return (x * said)[:said]

    return look


def odd(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Whether the first thing that the tool says begins with an odd digit; 0 if it was not called."""
    first = (next((m["content"] for m in messages if m["role"] == "tool"), "") for messages in completions)
    return [float(text[:1].isdigit() and int(text[0]) % 2) for text in first]


def question(number: int, length: int = 100) -> list[dict[str, str]]:
    """A conversation to be answered."""
    return [{"role": "user", "content": str(number % 10) * length}]


class Timed:
    """Seconds on the clock and of processor time since the start, and those spent in one function, per step."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.inside, self.began = (0.0, 0.0), self.now()

    @staticmethod
    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def function(self, function: Any) -> Any:
        """The function, whose time is counted."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = self.now()
            try:
                return function(*arguments, **options)
            finally:
                pairs = zip(self.inside, self.now(), began, strict=True)
                self.inside = tuple(x + now - then for x, now, then in pairs)

        return timed

    def steps(self, count: int) -> dict[str, float]:
        """Seconds per step: of writing, which is the function, of the rest, and of both; on the clock, and of the
        processor."""
        found = {}
        for kind, now, then, inside in zip(("", " (processor)"), self.now(), self.began, self.inside, strict=True):
            parts = {"generation": inside, "learning": now - then - inside, "total": now - then}
            found |= {name + kind: seconds / count for name, seconds in parts.items()}
        return found


def grpo_config(out: str, steps: int, prompts: int, samples: int, **more: Any) -> Any:
    """Settings of a GRPO trainer that takes one optimiser step a batch, on the CPU, and keeps and logs nothing. The
    longest completion is that of a whole episode."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=out,
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=prompts * samples,
        num_generations=samples,
        beta=0.0,
        max_grad_norm=1.0,
        loss_type="grpo",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=False,
        bf16=False,
        disable_tqdm=True,
        **more,
    )


def trl_trainer(model: Path, steps: int, out: str) -> Any:
    """A GRPO trainer with one optimiser step a batch of `PROMPTS · SAMPLES` completions."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOTrainer

    from surefoot.envs.language import resolve

    task = resolve(TASK)
    examples = [task.example(i) for i in range(PROMPTS * (steps + 4))]

    def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(text.strip() == wanted) for text, wanted in zip(completions, answer, strict=True)]

    sizes = {"max_completion_length": TOKENS, "temperature": 1.0, "learning_rate": 1e-4}
    config = grpo_config(out, steps, PROMPTS, SAMPLES, **sizes, remove_unused_columns=False)
    rows = Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in examples])
    tokenizer = AutoTokenizer.from_pretrained(model)
    return GRPOTrainer(
        model=str(model), reward_funcs=correct, args=config, train_dataset=rows, processing_class=tokenizer
    )


def trl_dpo(
    model: Path, rows: list[dict[str, str]], pairs: int, rate: float, beta: float, out: str
) -> tuple[Any, float, list[float]]:
    """A DPO trainer that takes the rows in their order, `pairs` a step, once; the seconds in which it computed the
    reference's log-probabilities; and a list that gets the loss of every step."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    disable_progress_bar()
    losses, seconds = list[float](), list[float]()

    class Trainer(DPOTrainer):
        def _precompute_ref_logps(self, *arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return super()._precompute_ref_logps(*arguments, **options)
            finally:
                seconds.append(time.perf_counter() - began)

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            found = super().compute_loss(*arguments, **options)
            losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
            return found

    config = DPOConfig(
        output_dir=out,
        use_cpu=True,
        num_train_epochs=1,
        per_device_train_batch_size=pairs,
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=True,
        beta=beta,
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        bf16=False,
        disable_tqdm=True,
    )
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    data = Dataset.from_list(rows)
    trainer = Trainer(model=network, args=config, train_dataset=data, processing_class=tokenizer)
    return trainer, sum(seconds), losses


def trl_tools(model: str, turns: int, said: int, steps: int, out: str) -> Any:
    """A GRPO trainer whose model calls a tool in every turn, at most `turns` of them."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.response_template = PARSED
    sizes = {"max_completion_length": turns * (110 + said), "temperature": HEAT, "learning_rate": 1e-6}
    config = grpo_config(out, steps, ASKED, TALKS, **sizes, max_tool_calling_iterations=turns - 1)
    rows = Dataset.from_list([{"prompt": question(i)} for i in range(ASKED * (steps + 4))])
    return GRPOTrainer(
        model=model, reward_funcs=odd, args=config, train_dataset=rows, processing_class=tokenizer, tools=[tool(said)]
    )


def timed_steps(trainer: Any, steps: int, uncounted: int) -> dict[str, float]:
    """Train, and give the seconds of these steps, after so many that are not timed."""
    from transformers import TrainerCallback

    timed = Timed()

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == uncounted:
                timed.start()

    trainer._generate = timed.function(trainer._generate)
    trainer.add_callback(Clock())
    trainer.train()
    return timed.steps(steps)


def main(model: str, turns: int, said: int, steps: int) -> None:
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as out:
        trainer = trl_tools(model, turns, said, steps + 1, out)
        generate, written = trainer._generate, []

        def kept(*given: Any) -> Any:
            found = generate(*given)
            written.append([sum(mask) for mask in found[2]])
            return found

        trainer._generate = kept
        seconds = timed_steps(trainer, steps, 1)
    print(json.dumps({**seconds, "written": written[-1]}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
