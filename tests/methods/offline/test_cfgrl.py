"""Guided flows: worked numbers of the improvement, the ends of guidance, and a learner against formulas."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from micro_data import target_data, walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.baselines import IQL
from surefoot.methods.offline.cfgrl import CFGRL, off_path
from surefoot.models.flow import guided, on_path, transported

SIZES: dict[str, Any] = {"batch_size": 16, "log_every": 20, "hidden": (16,), "flow_hidden": (16,), "flow_steps": 5}


# --- what is approximated: the weighted product ----------------------------------------------------------------------


def product(prior: np.ndarray, score: np.ndarray, weight: float) -> np.ndarray:
    made = prior * np.exp(weight * (score - score.max()))
    return made / made.sum()


def test_the_weighted_product_by_hand_and_its_slope():
    prior, values = np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.0, 1.0])
    advantage = values - prior @ values
    np.testing.assert_allclose(advantage, [-0.7, 0.3, 1.3])
    known = {
        1: ([0.179, 0.291944, 0.529056], 0.650056, 0.322834),
        2: ([0.036667, 0.162559, 0.800774], 1.064107, 0.915475),
    }
    for weight, (wanted, mean, apart) in known.items():
        made = product(prior, advantage, weight)
        np.testing.assert_allclose(made, wanted, atol=1e-6)
        assert made @ advantage == pytest.approx(mean, abs=1e-6)
        assert made @ np.log(made / prior) == pytest.approx(apart, abs=1e-6)
    assert product(prior, advantage, 4) @ advantage == pytest.approx(1.271652, abs=1e-6)
    made, step = product(prior, advantage, 2), 1e-5
    rise = (product(prior, advantage, 2 + step) - product(prior, advantage, 2 - step)) @ advantage / (2 * step)
    assert rise == pytest.approx(made @ advantage**2 - (made @ advantage) ** 2, rel=1e-6)


def field_of(mean: float, deviation: float):
    """The velocity of paths from N(0, 1) to N(mean, deviation²)."""

    def field(x, time):
        t = time.unsqueeze(-1)
        spread = (1 - t) ** 2 + (t * deviation) ** 2
        return mean + (t * deviation**2 - (1 - t)) / spread * (x - t * mean)

    return field


def carried(without, given, weight: float, steps: int = 400) -> torch.Tensor:
    noise = torch.distributions.Normal(0, 1).icdf((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).unsqueeze(-1)
    return transported(lambda x, t: guided(without(x, t), given(x, t), weight), noise, steps)


def test_guidance_is_the_product_of_gaussians_of_equal_spread():
    for weight in (0.0, 1.0, 3.0):
        found = carried(field_of(0, 0.5), field_of(1, 0.5), weight)
        assert found.mean().item() == pytest.approx(weight, abs=2e-3)
        assert found.var().item() == pytest.approx(0.25, abs=3e-3)


def test_guidance_is_not_the_product_where_spreads_differ():
    """N(0, 1) and N(1, 0.25) at w = 1.5: the product is N(1.0909, 0.1818), the flow's end is not."""
    precision = (1 - 1.5) + 1.5 / 0.25
    assert (1.5 / 0.25 / precision, 1 / precision) == pytest.approx((1.090909, 0.181818), abs=1e-6)
    found = carried(field_of(0, 1), field_of(1, 0.5), 1.5)
    assert found.mean().item() == pytest.approx(1.2395, abs=3e-3) and found.var().item() == pytest.approx(
        0.1248, abs=2e-3
    )
    assert (1 - 3) + 3 / 2.0 < 0  # a wider second one: for a large weight there is no product


def test_paths_and_guidance_at_their_ends():
    g = torch.manual_seed(0)
    a, b = torch.randn(2, 50, 3, generator=g)
    assert torch.equal(guided(a, b, 0.0), a) and torch.equal(guided(a, b, 1.0), b)
    torch.testing.assert_close(guided(a, b, 3.0), a + 3 * (b - a))
    time = torch.rand(50, generator=g)
    torch.testing.assert_close(on_path(a, b, time), (1 - time)[:, None] * a + time[:, None] * b)
    torch.testing.assert_close(
        transported(lambda x, t: torch.ones_like(x) * t[:, None], a, 4), a + (0 + 1 + 2 + 3) / 16
    )
    torch.testing.assert_close(transported(lambda x, t: b - a, a, 7), b)


# --- a learner against formulas --------------------------------------------------------------------------------------


def learner(method=None, data=None, seeds=(0,)):
    method = CFGRL(**SIZES) if method is None else method
    return make_learner(method, "", list(seeds), 1000, data=walk_data() if data is None else data)


def first_batch(run) -> tuple[Weights, dict[str, Any]]:
    now = {name: x[0] for name, x in run.weights.items()}
    run.draw()
    batch = {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in run.batch().items()}
    return Weights(run.functions, now, {n: x[0] for n, x in run.targets.items()}, now), batch


def test_the_loss_by_hand_also_where_no_action_is_good():
    run = learner()
    w, batch = first_batch(run)
    value = w.start["value"].clone()  # its last entry is a bias: half of the actions are good
    value[-1] += (
        w.target("critic", batch["observation"], batch["action"]).min(0).values - w("value", batch["observation"])
    ).median()
    w = Weights(w.functions, {**w.now, "value": value}, w.targets, {**w.start, "value": value})
    seen, start, time = batch["observation"], batch["noise"]["start"], batch["noise"]["time"]
    assert start.shape == (16, 2) and time.shape == (16,) and time.min() >= 0 and time.max() < 1
    x = (1 - time)[:, None] * start + time[:, None] * batch["action"]
    u = batch["action"] - start
    v = [w("flow", seen, x, time, label) for label in (0, 1)]
    q = w.target("critic", seen, batch["action"]).min(0).values
    good = (q - w("value", seen) >= 0).float()
    assert 0 < good.sum() < 16
    wanted = (good * ((v[1] - u) ** 2).mean(1)).mean() + 0.1 * ((v[0] - u) ** 2).mean()
    loss, found = run.nets["flow"].loss(w, batch)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found["positive"], good.mean())

    @dataclasses.dataclass(frozen=True)
    class Nothing(CFGRL):
        def weights(self, advantage):
            return super().weights(advantage - 1e9)

    loss, found = Nothing(**SIZES).flow_loss(w, batch)
    torch.testing.assert_close(loss, 0.1 * off_path(w, batch, seen, 0).mean())
    assert found["positive"] == 0 and torch.isfinite(loss)


def test_the_flow_moves_no_critic_and_the_rest_is_iql():
    guided_run = learner()
    plain = learner(IQL(batch_size=16, log_every=20, hidden=(16,), expectile=0.9, anneal="none"))
    for run in (guided_run, plain):
        run.iterate()
    for name in ("value", "critic", "actor"):
        torch.testing.assert_close(guided_run.weights[name], plain.weights[name], rtol=0, atol=1e-6)
    w, batch = first_batch(guided_run)
    slope = torch.func.grad(lambda x: guided_run.nets["flow"].loss(with_weights(w, critic=x), batch)[0])
    assert not slope(w.now["critic"]).any()


def with_weights(w: Weights, **now: torch.Tensor) -> Weights:
    return Weights(w.functions, {**w.now, **now}, w.targets, w.start)


def test_no_guidance_is_the_clone_and_a_guidance_of_one_the_labelled_flow(tmp_path):
    run = learner()
    run.iterate()
    agent, seen = run.agent(), torch.from_numpy(walk_data().observation[:7])
    mean, inverse = agent.scales[""]
    for weight in (0, 1, 2.5):
        acts = agent.acting(guidance=weight)
        x = torch.zeros(7, 2)
        for step in range(5):
            time = torch.full((7,), step / 5)
            with torch.no_grad():
                v = [run.functions["flow"](run.weights["flow"][0], (seen - mean) * inverse, x, time, k) for k in (0, 1)]
            x = x + (v[0] + weight * (v[1] - v[0])) / 5
        action = acts.predict(seen.numpy(), deterministic=True)[0]
        np.testing.assert_allclose(action, x.clamp(-1, 1), atol=1e-5)
    torch.manual_seed(0)
    first, second = (agent.predict(seen.numpy())[0] for _ in range(2))
    torch.manual_seed(0)
    np.testing.assert_array_equal(agent.predict(seen.numpy())[0], first)
    assert np.abs(first - second).max() > 0.01 and np.abs(first).max() <= 1
    agent.save(tmp_path)
    again = sf.load(tmp_path)
    assert again.knobs == {"guidance": 3.0, "flow_steps": 5, "unseen": ()}
    turned = again.acting(guidance=2.5).predict(seen.numpy(), deterministic=True)[0]
    np.testing.assert_array_equal(turned, agent.acting(guidance=2.5).predict(seen.numpy(), deterministic=True)[0])
    with pytest.raises(UsageError, match="guidance=-1"):
        again.acting(guidance=-1)


def test_guidance_leads_to_better_actions_and_then_out_of_the_data():
    """Actions around x/2 of deviation 0.3, paid for their size: the good half lies above."""
    data = target_data(spread=0.3)
    data = dataclasses.replace(data, reward=data.action[:, 0] - data.observation[:, 0] / 2)
    sizes = {**SIZES, "log_every": 250, "batch_size": 64, "learning_rate": 5e-3, "hidden": (32,), "flow_hidden": (32,)}
    run = learner(CFGRL(**sizes, expectile=0.7), data)
    (row,) = run.iterate()
    seen = np.linspace(-0.8, 0.8, 50, dtype=np.float32)[:, None]
    gains = []
    for weight in (0.0, 1.0, 3.0):
        action = run.agent().acting(guidance=weight).predict(seen, deterministic=True)[0]
        gains.append(float((action - seen / 2).mean()))
    assert 0.05 < row["positive"] < 0.6
    assert abs(gains[0]) < 0.1 and gains[1] > gains[0] + 0.1 and gains[2] > gains[1] + 0.1


# --- settings --------------------------------------------------------------------------------------------------------


def test_the_paper_s_sizes_and_what_is_said():
    assert CFGRL(**CFGRL.presets["paper"]).flow_hidden == (512, 512, 512)
    text = sf.explain("cfgrl")
    assert "v(0) + 3·(v(1) − v(0))" in text and "1[u ≥ 0]·(v(x_t, t | s, 1) − a + x_0)²" in text
    for values, said in (
        ({"guidance": -1.0}, "guidance=-1.0 is not allowed"),
        ({"unconditional": 0.0}, "unconditional=0.0 is not allowed"),
        ({"flow_steps": 0}, "flow_steps=0 is not allowed"),
    ):
        with pytest.raises(UsageError, match=said):
            CFGRL(**values)


def test_a_guided_agent_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    run = learner(CFGRL(**{**SIZES, "flow_steps": 3}))
    run.iterate()
    found = sf.export(run.agent(), tmp_path / "policy.onnx", states=40)
    assert found.differences.action < 1e-4
