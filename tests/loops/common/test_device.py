"""What is learned on a GPU is what is learned on the CPU, to rounding."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")
pytest.importorskip("peft", reason="adapters need surefoot[language]")
if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

import distributed_cases as cases
import language_micro as micro

from surefoot.models.language.engines import continuous_batching
from surefoot.models.language.generation import generate
from surefoot.models.language.sequences import join

TASK = micro.Bits(4)


@pytest.fixture(scope="module")
def start():
    return micro.at_random(TASK)


@pytest.mark.parametrize("case", cases.CASES)
def test_a_step_on_the_gpu_is_that_on_the_cpu(case, start):
    steps, rows = [], []
    for device in ("cpu", "cuda"):
        run = cases.learner(case, TASK, deepcopy(start).to(device))
        assert run.model.device.type == device
        before = [weight.detach().cpu().clone() for weight in run.weights.values()]
        rows.extend(run.iterate())
        steps.append([w.detach().cpu() - old for w, old in zip(run.weights.values(), before, strict=True)])
    for cpu, gpu in zip(*steps, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-4)
    assert rows[0] == pytest.approx(rows[1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("engine", [generate, continuous_batching])
def test_an_engine_on_the_gpu_writes_with_the_likelihoods_that_the_model_gives(engine, start):
    model = deepcopy(start).to("cuda")
    prompts = model.encode(["a=", "b="])
    found = engine(model, prompts, torch.rand(2, 8, 4, generator=torch.Generator().manual_seed(0)), temperature=1.0)
    batch = join([p for p in prompts for _ in range(8)], found.tokens)
    said = model.statistics(batch).log_prob.detach().cpu()[batch.valid]
    written = torch.tensor([x for row in found.log_prob for x in row])
    torch.testing.assert_close(written, said, rtol=1e-3, atol=1e-3)


def test_the_state_of_a_run_on_the_gpu_goes_on_on_the_cpu(start):
    on_gpu, on_cpu = (cases.learner("grpo", TASK, deepcopy(start).to(device)) for device in ("cuda", "cpu"))
    on_gpu.iterate()
    on_cpu.load(on_gpu.state(), on_gpu.iteration, 0)
    (there,), (here,) = on_gpu.iterate(), on_cpu.iterate()
    assert there == pytest.approx(here, rel=1e-3, abs=1e-4)
