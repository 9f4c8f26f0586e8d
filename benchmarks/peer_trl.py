"""TRL's GRPO on the same model, task, batch and lengths as ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, TOKENS, TASK = 16, 8, 24, "sorting:count=6,below=100"


class Timed:
    """Seconds on the clock and of processor time since the start, and those spent in one function, per step."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.inside, self.began, self.began_cpu = 0.0, time.perf_counter(), time.process_time()

    def function(self, function: Any) -> Any:
        """The function, whose time is counted."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.inside += time.perf_counter() - began

        return timed

    def steps(self, count: int) -> dict[str, float]:
        """Seconds per step: writing, which is the function's, the rest, both, and the processor's."""
        total, cpu = time.perf_counter() - self.began, time.process_time() - self.began_cpu
        parts = {"generation": self.inside, "learning": total - self.inside, "total": total, "processor": cpu}
        return {name: seconds / count for name, seconds in parts.items()}


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
