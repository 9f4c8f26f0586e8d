"""PCPG: gradients against the plain formula, cross-entropy at the edge, texts and their ends, runs, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_laws import a_device_changes_no_bit, numbers, the_seed_decides, together_as_alone

import surefoot as sf
import surefoot.supervised as room
from surefoot import api
from surefoot.data.tables import Table, read
from surefoot.data.visemes import ALIKE, LETTERS
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.supervised.learner import SupervisedLearner
from surefoot.methods.supervised.pcpg import PCPG
from surefoot.models.seq2seq import END, SequenceModel, SequenceNetwork, counted, encoded_texts

DATA = "visemes:24,shortest=2,longest=4,noise=0.3"
STREAM = np.random.default_rng(0)


def learner(seeds=(0,), steps: int = 4, device: str = "cpu", **changes) -> SupervisedLearner:
    method = PCPG(**{"units": 8, "batch_size": 8, "warm": 1, **changes})
    return make_learner(method, read(DATA), list(seeds), steps, device=device)


def made(letters: str = "abc", frames: int = 6, longest: int = 5) -> SequenceModel:
    torch.manual_seed(0)
    network = SequenceNetwork(7)
    vector = torch.cat([p.detach().flatten() for p in network.make(2, len(letters) + 1).parameters()])
    return SequenceModel(network, (frames, 2), vector, letters, longest)


# --- texts -------------------------------------------------------------------------------------------------------


def test_a_text_is_what_comes_before_its_first_end():
    tokens = torch.tensor([[2, 1, END, 3], [END, END, 1, 1], [1, 2, 3, 1]])
    assert counted(tokens).tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
    assert encoded_texts(np.array(["ba", ""]), "abc", 3).tolist() == [[2, 1, 0], [0, 0, 0]]
    with pytest.raises(UsageError, match="'x' in 'ax' was not seen in training"):
        encoded_texts(np.array(["ax"]), "abc", 3)


def test_a_greedy_text_is_the_likeliest_symbol_after_those_before_it_and_padding_has_no_say():
    model = made()
    X = STREAM.normal(size=(9, 6, 2))
    X[:, 4:] = 0
    tokens, flat = model.symbols(X), model._flat
    with torch.no_grad():
        logits = flat(model.vector, model.frames(X), tokens)
        shorter = flat(model.vector, torch.from_numpy(X[:, :4].astype(np.float32)), tokens)
    assert torch.equal(logits.argmax(-1), tokens) and torch.allclose(shorter, logits, atol=1e-6)
    words = model.predict(X)
    chance = model.log_probabilities(X, words).sum(-1).exp().numpy()
    assert (chance <= 1).all() and model.probabilities(X)[:, 0] == pytest.approx(chance)
    table = Table(X, ["a", "ab", "abc"] * 3)
    by_hand = -float(model.log_probabilities(X, table.y)[1].sum()) / 3
    assert model.losses(table)[1] == pytest.approx(by_hand, rel=1e-5)


def test_the_drawn_texts_have_the_models_chances():
    model, X = made("a", longest=2), np.ones((1, 6, 2))
    uniform = torch.rand(4000, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn = model._flat(model.vector, model.frames(X.repeat(4000, 0)), -(-uniform.log()).log())
    share = float((drawn[:, 0] == END).float().mean())
    chance = float(model.log_probabilities(X, np.array([""])).sum().exp())
    assert share == pytest.approx(chance, abs=0.03)


def test_the_error_rate_is_the_edit_distance_per_letter(monkeypatch):
    model = made()
    table = Table(np.ones((3, 6, 2)), ["cab", "a", "bb"])
    for found, wanted in ((["cab", "a", "bb"], 0.0), (["cb", "a", "bbcc"], 3 / 6), (["", "", ""], 1.0)):
        monkeypatch.setattr(model, "predict", lambda X, found=found: np.array(found))
        assert model.character_error(table) == pytest.approx(wanted)


# --- what is learned ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"baseline": "none"},
        {"baseline": "mean", "rollouts": 3},
        {"kernel": 3, "stride": 1},
        {"kernel": 1000, "stride": 1, "padding": 0},
        {"average": True},
    ],
)
def test_the_loss_is_that_of_windows_summed_one_by_one(changes):
    run = learner(warm=0, mix=1.0, **changes)
    method = run.method
    run._streams = [torch.Generator().manual_seed(1)]
    batch = run.batch(np.arange(8)[None])
    batch |= run.before(batch, ("model",))
    one = {name: x[0] for name, x in batch.items() if isinstance(x, torch.Tensor)}
    found, _ = method.model_loss(lambda name, *given: run.functions[name](run.weights[name][0], *given), one, run.rows)
    rewards = method.rewards(batch["tokens"], batch)[0]
    assert float(rewards.abs().sum()) > 0
    if method.baseline == "mean":
        rewards = rewards - rewards.mean(1, keepdim=True)
    if method.baseline == "greedy":
        greedy = run.output("model", batch["x"].flatten(2, 3), torch.zeros(1, 8, *batch["noise"]["gumbel"].shape[3:]))
        rewards = rewards - method.rewards(greedy.unsqueeze(2), batch)[0]
    total, windows = 0.0, 0
    for k in range(method.rollouts):
        tokens = one["tokens"][:, k]
        logits = run.functions["model"](run.weights["model"][0], one["x"].flatten(1, 2), tokens).log_softmax(-1)
        log = logits.gather(-1, tokens[..., None])[..., 0]
        for row in range(8):
            T = int(counted(tokens)[row].sum())
            count = max(1, (T + 2 * method.pad - method.kernel) // method.stride + 1)
            windows += count
            for i in range(count):
                first = i * method.stride - method.pad
                W = [t for t in range(first, first + method.kernel) if 0 <= t < T]
                size = len(W) ** 2 if method.average else 1
                total -= float(rewards[row, k, W].sum() * log[row, W].sum()) / size
    assert float(found) == pytest.approx(total / windows, rel=1e-4, abs=1e-6)


def test_without_a_share_of_the_policy_gradient_it_is_cross_entropy_to_the_bit():
    plain, warm = learner(mix=0.0), learner(warm=9)
    rows = [[one.iterate()[0] for _ in range(3)] for one in (plain, warm)]
    assert torch.equal(plain.weights["model"], warm.weights["model"])
    assert (
        [r["objective"] for r in rows[0]] == [r["cross_entropy"] for r in rows[0]] == [r["objective"] for r in rows[1]]
    )
    mixed = learner(warm=2)
    for _ in range(3):
        mixed.iterate()
    assert not torch.equal(mixed.weights["model"], warm.weights["model"])


def test_the_rewards_of_a_text_add_up_and_its_end_has_none():
    run = learner()
    target = torch.tensor([[[1, 2, 3, 0]]])
    batch = {"x": torch.zeros(1, 1, 1), "target": target, "length": torch.tensor([[3]])}
    tokens = torch.tensor([[[[1, 2, 3, 0, 5], [1, 4, 3, 0, 1], [1, 2, 3, 3, 3], [0, 1, 2, 3, 0]]]])
    found = run.method.rewards(tokens, batch)[0, 0].tolist()  # type: ignore[attr-defined]
    assert found == [[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, -1, -1], [0, 0, 0, 0, 0]]


def test_it_learns_to_read(tmp_path):
    method = PCPG(units=24, warm=8, batch_size=32, learning_rate=1e-2)
    run = make_learner(method, read("visemes:200,shortest=1,longest=2,noise=0.1"), [0], 12)
    errors = [run.iterate()[0]["character_error"] for _ in range(12)]
    assert errors[-1] < 0.2 < 0.4 < errors[0]


# --- runs --------------------------------------------------------------------------------------------------------


def test_the_common_laws_of_networks():
    the_seed_decides(lambda seeds: learner(seeds))
    a_device_changes_no_bit(learner)
    together_as_alone(lambda seeds: learner(seeds, mix=0.0))  # texts that are drawn may turn on rounding


def test_stopped_and_resumed_is_the_same_run_to_the_bit(tmp_path):
    method = PCPG(units=8, batch_size=8, warm=1)
    options = {"data": DATA, "steps": 4, "num_seeds": 2, "seed": 3, "loggers": ()}
    whole = api.train(method, run_dir=tmp_path / "whole", **options)
    cut = api.train(method, run_dir=tmp_path / "cut", callbacks=lambda one, _: one.iteration == 2, **options)
    assert len(cut.metrics()) == 4
    api.resume(cut)
    assert numbers([whole.metrics()]) == numbers([cut.metrics()])
    assert all(torch.equal(whole.agent(seed).vector, cut.agent(seed).vector) for seed in (3, 4))
    assert set("".join(whole.agent(3).predict(read(DATA).X))) <= set(LETTERS)
    figures = sf.evaluate(whole)
    assert 0 <= figures["accuracy"] <= 1 and figures["samples"] == 24


def test_a_damaged_model_is_refused(tmp_path):
    made().save(tmp_path)
    loaded = SequenceModel.load(tmp_path)
    X = STREAM.normal(size=(4, 6, 2))
    assert (loaded.predict(X) == made().predict(X)).all() and "6 frames of 2" in repr(loaded)
    text = (tmp_path / "agent.json").read_text()
    for old, new in (
        ('"abc"', '"abb"'),
        ('"abc"', '"abcd"'),
        ('"longest": 5', '"longest": -1'),
        ('"units": 7', '"units": 9'),
    ):
        assert old in text
        (tmp_path / "agent.json").write_text(text.replace(old, new))
        with pytest.raises(UsageError, match="is damaged"):
            SequenceModel.load(tmp_path)
    with pytest.raises(UsageError, match=r"X has the shape \[4, 5, 2\]; this model was trained on 6 frames"):
        loaded.predict(X[:, :5])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((np.ones((4, 3)), ["a", "b", "c", "d"]), "PCPG learns texts of sequences"),
        ((np.ones((4, 3, 2)), [1.0, 2.0, 3.0, 4.0]), "PCPG learns texts of sequences"),
        ("visemes:5,shortest=4,longest=3", "shortest=4 is not allowed with longest=3"),
        ("visemes:5,loud=3", "'loud=3' is not one of its arguments"),
    ],
)
def test_other_tables_are_refused(data, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        sf.train("pcpg", data=data, steps=1, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="baseline='mean', which needs 2"):
        PCPG(baseline="mean")
    with pytest.raises(UsageError, match="no credit"):
        PCPG(kernel=2, stride=3)
    with pytest.raises(UsageError, match="hidden=.* has no effect"):
        PCPG(hidden=(3,))
    assert room.PCPG is PCPG and "PCPG" not in dir(room)


def test_of_letters_that_look_alike_the_one_before_tells_which():
    words = read("visemes:300,seed=3").y.tolist()
    for pair in ALIKE:
        for word in words:
            for place, letter in enumerate(word):
                if LETTERS.index(letter) in pair:
                    before = LETTERS.index(word[place - 1]) % 2 if place else 0
                    assert LETTERS.index(letter) == pair[before]
