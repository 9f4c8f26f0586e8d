"""The command `surefoot align`: what constraints on a language model cost, and the run that satisfies them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from surefoot.errors import printable


def align(
    model: Annotated[str, arg(metavar="MODEL")],
    /,
    constraint: tuple[str, ...],
    reward: str | None = None,
    task: str | None = None,
    steps: int | None = None,
    beta: float = 0.1,
    relative: bool = False,
    dual_prompts: int = 600,
    dual_samples: int = 128,
    points: int = 5,
    lora: str | None = None,
    learning_rate: float | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    run_dir: Path | None = None,
    trust: bool = False,
) -> None:
    """Predict what constraints on MODEL cost from its own samples, then train it once to satisfy them.

    Args:
        model: Folder of a language model's run, whose task and reward are then the defaults, or a model as for train.
        constraint: Reward functions with lower bounds on their means, such as judges:harmless=0.9. A range, such as
            judges:harmless=0.5..1, gives predictions for several bounds, and nothing is trained.
        reward: Reward function to be maximised, as module:function or reward-model:FOLDER.
        task: Task, or file of prompts.
        steps: Iterations of training; by default the method's own number.
        beta: Strength of the reference: reward per nat of divergence from MODEL.
        relative: Bounds are of the improvement over MODEL.
        dual_prompts: Prompts whose samples the prediction is made of.
        dual_samples: Samples per prompt; of few of them constraints come out too strict.
        points: Number of bounds in a range.
        lora: LoRA rank; by default all weights are trained.
        learning_rate: Learning rate, if not the default of the model.
        max_tokens: Maximum number of tokens per completion.
        seed: Random seed.
        run_dir: Folder of the new run; RUN-aligned by default.
        trust: Import and call what the folder of MODEL names as module:name.
    """
    from surefoot.alignment import align as aligned

    settings: dict[str, Any] = {"beta": beta, "relative": relative, "lora": lora}
    settings |= {"dual_prompts": dual_prompts, "dual_samples": dual_samples}
    settings |= {} if learning_rate is None else {"learning_rate": learning_rate}
    settings |= {} if max_tokens is None else {"max_tokens": max_tokens}
    given: Any = {"reward": reward, "task": task, "steps": steps, "points": points, "seed": seed, "run_dir": run_dir}
    print(printable(aligned(model, constraint, trust=trust, **given, **settings).table()))
