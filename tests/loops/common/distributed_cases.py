"""One iteration of several methods, in one process of as many as there are; writes what became of the weights."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from surefoot import catalogue
from surefoot.loops.common import distributed
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.models.language.loading import load_model, with_lora
from surefoot.models.language.model import LanguageModel

sys.path.insert(0, str(Path(__file__).parents[2] / "methods"))
import language_micro as micro

SMALL = {"prompts": 5, "samples": 4, "max_tokens": 6, "max_grad_norm": None, "epochs": 1, "minibatches": 1}
CASES = {
    "grpo": {"kl": 0.1},
    "grpo-pieces": {"micro_tokens": 20, "kl": 0.1},
    "dapo": {"resamples": 2},
    "bnpo": {},
    "gpg": {},
    "delta-l": {"entropy": 0.01},
    "hpt": {"gate": 0.0},
    "rebel": {"samples": 2, "micro_tokens": 20},
    "sft": {"samples": 0},
    "sft-pieces": {"samples": 0, "micro_tokens": 1, "max_grad_norm": 0.5},  # one process reads three times, one twice
    "grpo-adapter": {"kl": 0.1},
    "ppo-critic": {"entropy": 0.01},
    "ppo-critic-pieces": {"micro_tokens": 20, "kl": 0.1, "minibatches": 2},
    # one of the prompts is asked again, twice, which is fewer than there are processes
    "ghpo": {"samples": 2, "max_tokens": 1, "hints": (0.25, 0.5), "hint_text": "{hint}=", "cold_start": 0},
}


def learner(case: str, task: micro.Bits, start: LanguageModel, **settings: Any) -> LanguageLearner:
    """A learner on a copy of a model, whose step is the gradient times a rate."""
    slug = case.removesuffix("-pieces").removesuffix("-adapter")
    method, model = catalogue.method_class(slug)(**{**SMALL, **CASES[case]}), deepcopy(start)
    if case.endswith("-adapter"):
        model.network = with_lora(model.network, 2)
    run = micro.learner(method, task, model, seed=4, **settings)
    run.learning_rate = 1.0 if method.minibatches == 1 else 0.3  # a second step magnifies the rounding of a long first
    run.optimizer = torch.optim.SGD(run.weights.values(), lr=run.learning_rate)
    if run.model.critic is not None:  # one that is 0 would not pull at the trunk
        weight = run.weights["critic.weight"]
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        weight.data.copy_(distributed.part(drawn, weight))
    return run


def held(weight: torch.Tensor) -> int:
    """How many numbers of a weight lie in this process."""
    return (weight.to_local() if hasattr(weight, "to_local") else weight).numel()


def main(place: str) -> None:
    distributed.start()
    task = micro.Bits(4)
    if distributed.world_size() == 1:  # what all start from
        micro.at_random(task).save("start")
    start = load_model("start")
    for sharding in ("none", "full") if distributed.world_size() > 1 else ("none",):
        kept = {}
        for case in CASES:
            run = learner(case, task, start, sharding=sharding)
            before = {name: distributed.whole(weight.detach()).clone() for name, weight in run.weights.items()}
            (row,) = run.iterate()
            steps = [(distributed.whole(run.weights[name].detach()) - x).flatten() for name, x in before.items()]
            kept[f"{case}/step"] = torch.cat(steps)
            weights = {*run.model.network.parameters(), *run.weights.values()}  # those of an adapter and a critic too
            kept[f"{case}/held"] = torch.tensor(sum(map(held, weights)))
            kept |= {f"{case}/row/{name}": torch.tensor(float(x)) for name, x in row.items() if not isinstance(x, str)}
        save_file(kept, f"{place}-{sharding}-{distributed.rank()}.safetensors")
