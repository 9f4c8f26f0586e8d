"""The reference's log-probabilities in a file: computed once, used again, refused for another model or other pairs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import resolve
from surefoot.envs.language.corrupted import under
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.reference_file import kept
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.preference.baselines import DPO, SimPO
from surefoot.methods.preference.kto import METHOD as KTO
from surefoot.methods.preference.srpo import SRPO
from surefoot.models.language.generation import generate
from surefoot.models.language.loading import with_lora
from surefoot.models.language.nano import Nano, fresh

TINY = Nano(width=16, layers=1, heads=2, context=64, warmup=0)
ROWS = [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": f"{i * 7 % 10}, or so"} for i in range(20)]
TASK = resolve(ROWS)


def learner(method, task=TASK, seed=1, model=None):
    made = fresh(TINY, seed=seed) if model is None else model
    return LanguageLearner(method, made, task, make_rewards(task, None, None), generate, learning_rate=1e-2)


@pytest.mark.parametrize("method", [DPO(prompts=6), KTO(prompts=6), SRPO(prompts=3, request="?")])
def test_it_holds_what_a_run_would_compute_and_nothing_is_computed_again(method, tmp_path, monkeypatch):
    file, plain = tmp_path / "pairs.reference", learner(method)
    while plain.memory["reference"].isnan().any():
        plain.memory = method.collect(iteration(plain)).progress.memory
    first = learner(method)
    kept(first, file)
    torch.testing.assert_close(first.memory["reference"], plain.memory["reference"], rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(type(first.estimator), "statistics", None)
    again = learner(method)
    kept(again, file)
    assert torch.equal(again.memory["reference"], first.memory["reference"])


def iteration(run):
    from surefoot.loops.group_rollout.iteration import Iteration

    return Iteration(run)


def test_steps_are_those_without_the_file(tmp_path):
    runs = [learner(DPO(prompts=5)) for _ in range(2)]
    kept(runs[1], tmp_path / "file")
    for _ in range(4):
        one, other = (run.iterate()[0] for run in runs)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_an_adapter_does_not_change_the_hash_and_a_weight_does(tmp_path):
    pytest.importorskip("peft")
    file, plain = tmp_path / "file", fresh(TINY, seed=1)
    for seed in (0, 1):
        model = fresh(TINY, seed=1)
        model.network = with_lora(model.network, 2, seed)
        kept(learner(DPO(prompts=5), model=model), file)
    kept(learner(DPO(prompts=5), model=fresh(TINY, seed=1)), file)  # nor is it another model
    plain.parameters()["model.norm.weight"].data[0] += 1e-3
    with pytest.raises(UsageError, match="of another model"):
        kept(learner(DPO(prompts=5), model=plain), tmp_path / "file")


def test_other_models_pairs_and_damage_are_refused(tmp_path):
    file = tmp_path / "file"
    kept(learner(DPO()), file)
    others = (
        (learner(DPO(), seed=2), "of another model, not of this run's"),
        (learner(DPO(), resolve(ROWS[:-1] + [{**ROWS[-1], "chosen": "7"}])), "of other pairs"),
        (learner(DPO(), under(TASK, "label-flip:0.5", "DPO")), "of other pairs"),
        (learner(DPO(temperature=0.5)), "of another temperature"),
        (learner(SimPO()), "compares no finite set of pairs with a reference"),
        (learner(GRPO(prompts=2, samples=2, max_tokens=4)), "has no effect"),
    )
    for run, words in others:
        with pytest.raises(UsageError, match=words):
            kept(run, file)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UsageError, match="cannot be read"):
        kept(learner(DPO()), file)


def test_a_run_from_the_shell_keeps_it_beside_the_data_and_does_not_record_it(tmp_path, monkeypatch):
    file = tmp_path / "pairs.reference"
    settings = {"nano_warmup": 2, "loggers": (), "prompts": 4, "reference_cache": str(file)}
    runs = [sf.train("dpo", ROWS, 2, run_dir=tmp_path / name, **settings) for name in ("one", "two")]
    assert file.exists() and "reference_cache" not in runs[0].config["env"]
    assert runs[0].metrics()[-1]["loss"] == runs[1].metrics()[-1]["loss"]
    with pytest.raises(UsageError, match="of another model"):
        sf.train("dpo", ROWS, 2, run_dir=tmp_path / "three", **{**settings, "nano_warmup": 3})
