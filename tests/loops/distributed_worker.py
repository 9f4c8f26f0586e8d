"""One iteration of several methods, in one process of as many as there are; writes what became of the weights."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file

from surefoot import catalogue
from surefoot.loops import distributed

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
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
    "ppo-critic": {"entropy": 0.01},
    "ppo-critic-pieces": {"micro_tokens": 20, "kl": 0.1, "minibatches": 2},
}


def main(place: str) -> None:
    distributed.start()
    task, kept = micro.Bits(4), {}
    start = micro.at_random(task)
    for case, changes in CASES.items():
        slug = case.removesuffix("-pieces")
        method = catalogue.method_class(slug)(**{**SMALL, **changes})
        run = micro.learner(method, task, deepcopy(start), seed=4)
        rate = 1.0 if method.minibatches == 1 else 0.3  # a second step magnifies the rounding of a long first one
        run.optimizer = torch.optim.SGD(run.weights.values(), lr=rate)
        run.learning_rate = rate
        if run.model.critic is not None:  # one that is 0 would not pull at the trunk
            torch.nn.init.normal_(run.model.critic.weight, generator=torch.Generator().manual_seed(0))
        before = {name: weight.detach().clone() for name, weight in run.weights.items()}
        (row,) = run.iterate()
        steps = [(run.weights[name].detach() - x).flatten() for name, x in before.items()]
        kept[f"{case}/step"] = torch.cat(steps)
        kept |= {f"{case}/row/{name}": torch.tensor(float(x)) for name, x in row.items()}
    save_file(kept, f"{place}-{distributed.rank()}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
