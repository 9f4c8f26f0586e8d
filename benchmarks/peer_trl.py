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
