"""What is learned on a GPU is what is learned on the CPU, to rounding.

`tests/methods/test_device_laws.py` holds all methods to it without one.
"""

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
import test_laws
import test_tabular_laws

import surefoot as sf
from surefoot.loops.common.run import make_learner
from surefoot.loops.tabular.learner import TabularLearner
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


@test_laws.every_method
def test_an_iteration_of_an_on_policy_method_on_the_gpu_is_that_on_the_cpu(slug):
    moves, rows = [], []
    for device in ("cpu", "cuda"):
        run = make_learner(test_laws.small(slug), "CartPole-v1", [0, 1], 10**6, device=device)
        before = run.vector
        rows.append(run.iterate())
        assert {x.device.type for x in (run.vector, *run.adam, *run.extra.values())} == {device}
        moves.append((run.vector - before).cpu())
    torch.testing.assert_close(moves[1], moves[0], rtol=1e-3, atol=1e-4)
    for here, there in zip(*rows, strict=True):
        assert there == pytest.approx(here, rel=1e-3, abs=1e-4, nan_ok=True)


@test_tabular_laws.every_method
def test_a_step_of_a_tabular_method_on_the_gpu_is_that_on_the_cpu(slug):
    method = test_tabular_laws.made(slug)
    mdp = test_tabular_laws.admitted(method)[-1]
    here, there = (TabularLearner(method, mdp, [0], device) for device in ("cpu", "cuda"))
    assert there.iterate()[0] == pytest.approx(here.iterate()[0], rel=1e-6, abs=1e-9, nan_ok=True)
    for name, x in there.state().items():
        torch.testing.assert_close(x, here.state()[name], rtol=1e-6, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(("slug", "env", "steps"), [("ppo", "CartPole-v1", 4096), ("rfzi", "two-state", 4)])
def test_a_run_on_the_gpu_resumes_on_the_cpu(slug, env, steps, tmp_path):
    given = {"run_dir": tmp_path / "run", "loggers": (), "callbacks": lambda learner, _: True}
    run = sf.train(slug, env, steps, device="cuda", **given)
    assert run.config["env"]["device"] == "cuda" and not run.finished
    assert sf.resume(run.path, device="cpu").finished
