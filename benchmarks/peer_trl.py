"""TRL's GRPO on the same model, task, batch and lengths as ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, TOKENS, TASK = 16, 8, 24, "sorting:count=6,below=100"


class Timed:
    """Seconds spent in methods of an object, by name."""

    def __init__(self, owner: Any, names: dict[str, str]) -> None:
        self.seconds = dict.fromkeys(names.values(), 0.0)
        for method, name in names.items():
            setattr(owner, method, self._wrap(getattr(owner, method), name))

    def _wrap(self, function: Any, name: str) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began

        return timed


def trl_trainer(model: Path, steps: int, out: str) -> Any:
    """A GRPO trainer with one optimiser step a batch of `PROMPTS · SAMPLES` completions."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from surefoot.envs.language import resolve

    task = resolve(TASK)
    examples = [task.example(i) for i in range(PROMPTS * (steps + 4))]

    def correct(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(text.strip() == wanted) for text, wanted in zip(completions, answer, strict=True)]

    config = GRPOConfig(
        output_dir=out,
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES,
        max_completion_length=TOKENS,
        temperature=1.0,
        beta=0.0,
        learning_rate=1e-4,
        max_grad_norm=1.0,
        loss_type="grpo",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        gradient_checkpointing=False,
        bf16=False,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows = Dataset.from_list([{"prompt": e.prompt, "answer": e.answer} for e in examples])
    tokenizer = AutoTokenizer.from_pretrained(model)
    return GRPOTrainer(
        model=str(model), reward_funcs=correct, args=config, train_dataset=rows, processing_class=tokenizer
    )
