"""The commands for language models: `surefoot chat`, `surefoot steer` and `surefoot align`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.errors import UsageError, printable


def chat(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    max_tokens: int | None = None,
    temperature: float | None = None,
    seed: int = 0,
) -> None:
    """Chat with the language model of RUN, one line at a time; an empty line ends the chat.

    Args:
        run: Folder of a run or of an agent.
        max_tokens: Maximum number of tokens in an answer; by default as in training.
        temperature: Sampling temperature, 0 for greedy decoding; by default as in training.
        seed: Random seed for sampling.
    """
    from surefoot import api

    agent = api.load(run)
    if not hasattr(agent, "texts"):
        raise UsageError(f"{run} is not a language model that writes; chat needs one.")
    templated = agent.model.tokenizer.chat_template is not None
    for turn, line in enumerate(iter(lambda: sys.stdin.readline().rstrip("\n"), "")):
        prompt = [{"role": "user", "content": line}] if templated else line
        (answer,) = agent.texts([prompt], max_tokens=max_tokens, temperature=temperature, seed=seed + turn)
        print(printable(answer), flush=True)


def steer(
    model: Annotated[str, arg(metavar="MODEL")],
    /,
    direction: str,
    prompt: tuple[str, ...] = (),
    task: str | None = None,
    reward: str | None = None,
    judge: str | None = None,
    candidates: int | None = None,
    max_angle: float | None = None,
    grid: Literal["absolute", "relative", "cap"] | None = None,
    include_target: bool = False,
    examples: int = 64,
    points: int = 5,
    seed: int = 0,
    trust: bool = False,
) -> None:
    """Answer for a direction of preference by the best of its neighbours' answers, and compare with best-of-k.

    Args:
        model: Folder of a run or of an agent that reads directions in its prompt, such as a run of rps.
        direction: Angle in degrees between the first two attributes, such as 30, a range such as 10..45, or weights, as
            in 0.7,0.7,0.2.
        prompt: Prompts to answer; by default the first held-out ones of the task.
        task: Task, or file of prompts, if not the one it was trained on.
        reward: Attributes, as reward functions separated by commas; by default those of its training.
        judge: The same attributes by other reward functions, which judge the answers that were chosen.
        candidates: Answers to choose from; by default as the model says, or 5.
        max_angle: Largest angle to a neighbour in degrees; by default as the model says, or 30.
        grid: Neighbours: of the angles -40 to 40, of these steps around the direction, or uniform in the cap.
        include_target: Have the direction itself among the candidates.
        examples: Number of held-out prompts.
        points: Number of directions in a range.
        seed: Random seed of neighbours and answers.
        trust: Import and call what the folder of MODEL names as module:name.
    """
    from surefoot.evaluate import steering

    rule = {"candidates": candidates, "max_angle": max_angle, "grid": grid, "include_target": include_target or None}
    given: Any = {name: x for name, x in rule.items() if x is not None}
    given |= {"task": task, "reward": reward, "judge": judge, "examples": examples, "seed": seed, "trust": trust}
    asked = list(prompt) or None
    found = [steering.steer(model, one, asked, **given) for one in steering.sweep(direction, points)]
    print(printable(steering.table(found)))


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
