"""Laws that hold for every registered part, whoever adds it: the parts are read from the registry.

A new part is covered by being defined in a module of `surefoot.objectives` or of a method. If it cannot be made without
arguments, give an example of it in `EXAMPLES`. The oracle tables below restate parts in a second form; a part that is
not in them is held to all laws but is its own oracle there.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import math
import pkgutil

import pytest
import torch

from surefoot import catalogue, objectives
from surefoot.errors import UsageError
from surefoot.objectives import PolicyObjective, advantages
from surefoot.objectives.part import SLOTS, Part
from surefoot.objectives.stabilizers import clip

for module in pkgutil.iter_modules(objectives.__path__):
    importlib.import_module(f"{objectives.__name__}.{module.name}")
for entry in catalogue.methods():
    importlib.import_module(entry.module)

F64 = torch.float64
EXAMPLES: dict[str, tuple[Part, ...]] = {
    "total": (advantages.total((advantages.gae(), advantages.scaled(advantages.monte_carlo(0.9), -2.0))),),
    "scaled": (advantages.scaled(advantages.total((advantages.group_mean(),)), 0.5),),
    "sequence": (objectives.ratios.sequence(), objectives.ratios.sequence(axis=0)),
    "truncated": (objectives.ratios.truncated(), objectives.ratios.truncated(low=0.2, high=0.2)),
    "constant_length": (objectives.aggregation.constant_length(length=3.7),),
}


def parts(slot: str) -> list[Part]:
    return [part for name, cls in SLOTS[slot].items() for part in EXAMPLES.get(name) or (cls(),)]


EVERY = [part for slot in SLOTS for part in parts(slot)]
each_part = pytest.mark.parametrize("part", EVERY, ids=repr)
each_advantage = pytest.mark.parametrize("part", parts("advantage"), ids=repr)
each_stabilizer = pytest.mark.parametrize("part", parts("stabilizer"), ids=repr)
each_aggregation = pytest.mark.parametrize("part", parts("aggregation"), ids=repr)
each_value_loss = pytest.mark.parametrize("part", parts("value loss"), ids=repr)
each_objective = pytest.mark.parametrize(
    "objective",
    [
        PolicyObjective(ratio=r, stabilizer=s, aggregation=a, likelihood=f)
        for r, s, a, f in itertools.product(*(parts(x) for x in ("ratio", "stabilizer", "aggregation", "likelihood")))
    ],
    ids=lambda o: " ".join(repr(x) for x in (o.ratio, o.stabilizer, o.aggregation, o.likelihood)),
)


# ---------------------------------------------------------------------------------------------------------------------
# Every part: a value, a formula, JSON, and errors that name the nearest.


@each_part
def test_round_trip_through_json(part):
    data = json.loads(json.dumps(part.to_dict()))
    assert type(part).from_dict(data) == part
    assert SLOTS[part.slot][data["part"]] is type(part)


@each_part
def test_is_a_frozen_hashable_value_with_a_formula(part):
    assert hash(part) == hash(dataclasses.replace(part)) and part == dataclasses.replace(part)
    assert str(part) and "{" not in str(part).replace("_{", "")
    for field in dataclasses.fields(part):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field.name, getattr(part, field.name))


@each_part
def test_misspelled_name_and_field_name_the_nearest(part):
    data = part.to_dict()
    with pytest.raises(UsageError, match=f"'{data['part']}x' is unknown.*'{data['part']}'"):
        type(part).from_dict({**data, "part": data["part"] + "x"})
    for field in dataclasses.fields(part):
        with pytest.raises(UsageError, match=f"no hyperparameter '{field.name}_'.*'?{field.name}'?"):
            type(part).from_dict({**data, f"{field.name}_": 1.0})


def out_of_range() -> list[tuple[type[Part], str, object]]:
    """For every field with a declared limit: a value just past it, and values that are no numbers."""
    cases = []
    for cls in {type(part): None for part in EVERY}:
        for field in dataclasses.fields(cls):
            limits = field.metadata
            past = [limits[k] - 1e-6 for k in ("low",) if k in limits] + [
                limits[k] for k in ("above", "below") if k in limits
            ]
            past += [limits["high"] + 1e-6] if "high" in limits else []
            past += [float("nan"), "0.5", True] if past else []
            past += ["no such choice"] if "choices" in limits else []
            cases += [(cls, field.name, value) for value in past]
    return cases


@pytest.mark.parametrize(("cls", "name", "value"), out_of_range())
def test_out_of_range_is_refused(cls, name, value):
    example = next(part for part in EVERY if type(part) is cls)
    with pytest.raises(UsageError, match=rf"{cls.__name__}: {name}=.* is not allowed; it must be "):
        dataclasses.replace(example, **{name: value})


# ---------------------------------------------------------------------------------------------------------------------
# Advantages.


def steps(seed: int = 0, T: int = 7, B: int = 5, dtype: torch.dtype = F64) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    floats = {name: torch.randn(T, B, generator=g, dtype=dtype) for name in ("rewards", "values", "next_values")}
    flags = {name: torch.rand(T, B, generator=g) < 0.2 for name in ("terminated", "truncated")}
    return {**floats, **flags, "valid": torch.rand(T, B, generator=g) > 0.25}


BOUNDED = ("beta_normalized",)  # advantages of rewards in [0, 1]


def compute(part, data: dict[str, torch.Tensor]) -> torch.Tensor:
    rewards = data["rewards"].sigmoid() if type(part).__name__ in BOUNDED else data["rewards"]
    return part(rewards, **{k: v for k, v in data.items() if k != "rewards"})


@each_advantage
@pytest.mark.parametrize("seed", range(3))
def test_advantage_ignores_what_padding_holds(part, seed):
    data = steps(seed)
    valid, other = data["valid"], steps(seed + 100)
    expected = compute(part, data)
    assert (expected[~valid] == 0).all() and expected.isfinite().all() and expected.abs().sum() > 0
    for garbage in (torch.nan, 1e30, torch.inf):
        dirty = {
            k: torch.where(valid, v, other[k] if v.dtype == torch.bool else garbage)
            for k, v in data.items()
            if k != "valid"
        }
        assert torch.equal(compute(part, {**dirty, "valid": valid}), expected)


@each_advantage
def test_advantage_is_equivariant_to_the_order_of_the_last_axis(part):
    data, order = steps(), torch.tensor([3, 0, 4, 1, 2])
    permuted = compute(part, {k: v[:, order] for k, v in data.items()})
    torch.testing.assert_close(permuted, compute(part, data)[:, order], rtol=0, atol=1e-12)


@each_advantage
def test_advantage_without_a_mask_is_that_of_a_full_mask(part):
    data = steps()
    full = compute(part, {**data, "valid": torch.ones_like(data["valid"])})
    torch.testing.assert_close(compute(part, {k: v for k, v in data.items() if k != "valid"}), full)


@each_advantage
def test_advantage_keeps_shape_and_dtype(part):
    for dtype in (torch.float32, F64):
        data = steps(dtype=dtype)
        out = compute(part, data)
        assert (out.shape, out.dtype) == (data["rewards"].shape, dtype)


@each_advantage
def test_advantage_is_linear_under_sums_and_scalings(part):
    data = steps()
    data = {**data, "rewards": data["rewards"].sigmoid()}
    mixed, other = 2.0 * part - part * 0.5 + advantages.monte_carlo(), advantages.monte_carlo()
    signals = {k: v for k, v in data.items() if k != "rewards"}
    wanted = 1.5 * part(data["rewards"], **signals) + other(data["rewards"], **signals)
    torch.testing.assert_close(mixed(data["rewards"], **signals), wanted)


@each_advantage
def test_advantage_under_vmap(part):
    runs = [steps(seed) for seed in range(3)]
    stacked = {k: torch.stack([run[k] for run in runs]) for k in runs[0]}
    together = torch.func.vmap(lambda data: compute(part, data))(stacked)
    torch.testing.assert_close(together, torch.stack([compute(part, run) for run in runs]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", [advantages.group_mean(), advantages.group_standardized(), advantages.leave_one_out()])
def test_groups_do_not_see_each_other(part):
    data = steps()
    alone = torch.stack([compute(part, {k: v[i] for k, v in data.items()}) for i in range(7)])
    torch.testing.assert_close(compute(part, data), alone, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Stabilizers, aggregations, value losses.


@each_stabilizer
def test_weight_is_the_slope_of_the_stabilizer(part):
    g = torch.Generator().manual_seed(0)
    ratio = (5 * torch.rand(4000, generator=g, dtype=F64)).requires_grad_()
    advantage = torch.randn(4000, generator=g, dtype=F64)
    (slope,) = torch.autograd.grad(part(ratio, advantage).sum(), ratio)
    torch.testing.assert_close(part.weight(ratio.detach(), advantage), slope, rtol=1e-12, atol=1e-12)


@each_stabilizer
def test_stabilizer_leaves_the_old_policy_alone(part):
    advantage, one = torch.linspace(-2, 2, 9, dtype=F64), torch.ones(9, dtype=F64)
    torch.testing.assert_close(part(one, advantage), advantage)
    slope = 1 - getattr(part, "alpha", 0.0)  # a smoothed ratio is slower than the ratio
    torch.testing.assert_close(part.weight(one, advantage), slope * advantage)


@each_aggregation
def test_aggregation_weights(part):
    valid = steps()["valid"]
    weights = part.weights(valid, F64)
    assert weights.dtype == F64 and weights.shape == valid.shape
    assert (weights[valid] > 0).all() and (weights[~valid] == 0).all()
    assert (part.weights(torch.zeros_like(valid)) == 0).all()
    padded = torch.cat([valid, torch.zeros_like(valid)], dim=1)
    torch.testing.assert_close(part.weights(padded, F64)[:, : valid.shape[1]], weights, rtol=0, atol=0)


@each_value_loss
def test_value_loss_is_a_loss(part):
    g = torch.Generator().manual_seed(0)
    values, targets, old = (torch.randn(50, generator=g, dtype=F64) for _ in range(3))
    loss = part(values, targets, old)
    assert loss.shape == values.shape and (loss >= 0).all()
    assert (part(targets, targets, targets) == 0).all()
    assert torch.autograd.gradcheck(lambda v: part(v, targets, old), values.clone().requires_grad_())
    sides = [part(targets + e, targets, targets) for e in (1e-3, -1e-3)]  # an expectile differs between them
    torch.testing.assert_close((sides[0] + sides[1]) / 2, torch.full_like(targets, 0.5e-6))


# ---------------------------------------------------------------------------------------------------------------------
# The one estimator: −c·f'(ρ, Â)·ρ·F'(π), written a second time.


def sequence_ratio(part, log_prob, old, valid):
    log_ratio = (log_prob - old).masked_fill(~valid, 0.0)
    return (log_ratio.sum(part.axis, True) / valid.sum(part.axis, True)).expand_as(log_prob).exp()


RATIO = {
    "old": lambda part, log_prob, old, valid: log_prob.exp() / old.exp(),
    "current": lambda part, log_prob, old, valid: torch.ones_like(log_prob),
    "constant": lambda part, log_prob, old, valid: log_prob.exp(),
    "sequence": sequence_ratio,
    "truncated": lambda part, log_prob, old, valid: (
        (log_prob.exp() / old.exp())
        .maximum(torch.tensor(1 - part.low, dtype=F64))
        .minimum(torch.tensor(1 + part.high, dtype=F64))
    ),
}
ONE_AT_THE_OLD_POLICY = {"old", "current", "sequence", "truncated"}
LIKELIHOOD = {"plain": lambda part, pi: pi, "saturating": lambda part, pi: pi / (pi + part.offset)}


def sequences(valid: torch.Tensor, axis: int) -> torch.Tensor:
    return valid.movedim(axis, -1).reshape(-1, valid.shape[axis])


def count(valid: torch.Tensor, axis: int) -> int:
    return sum(bool(s.any()) for s in sequences(valid, axis))


WEIGHT = {
    "mean": lambda part, valid: torch.full(valid.shape, 1 / int(valid.sum()), dtype=F64),
    "per_sequence": lambda part, valid: (
        1 / valid.to(F64).sum(part.axis, True).expand(valid.shape) / count(valid, part.axis)
    ),
    "constant_length": lambda part, valid: torch.full(
        valid.shape, 1 / (part.length * count(valid, part.axis)), dtype=F64
    ),
}


def name(part: Part) -> str:
    return type(part).__name__


def by_hand(objective: PolicyObjective, log_prob, old, advantage, valid) -> torch.Tensor:
    """The closed form of the gradient of the loss, with every factor from its second definition."""
    part = objective.ratio
    if name(part) in RATIO:
        ratio = RATIO[name(part)](part, log_prob, old, valid)
    else:
        ratio = torch.exp(log_prob - part.log_denominator(log_prob, old, valid))
    slope = torch.func.grad(lambda r: objective.stabilizer(r, advantage).sum())(ratio)
    part = objective.likelihood
    if name(part) in LIKELIHOOD:
        likelihood = torch.func.grad(lambda pi: LIKELIHOOD[name(part)](part, pi).sum())(log_prob.exp())
    else:
        likelihood = part.slope(log_prob)
    part = objective.aggregation
    weights = WEIGHT[name(part)](part, valid) if name(part) in WEIGHT else part.weights(valid, F64)
    return torch.where(valid, -weights * slope * ratio * likelihood, 0.0)


def batch(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    log_prob = -3 * torch.rand(*shape, generator=g, dtype=F64)
    old = log_prob + 0.5 * torch.randn(*shape, generator=g, dtype=F64)
    return log_prob, old, torch.randn(*shape, generator=g, dtype=F64)


def padding(*shape: int) -> torch.Tensor:
    """Right-padded sequences of several lengths along the last axis, one of them empty."""
    lengths = 2 * torch.arange(math.prod(shape[:-1])) % (shape[-1] + 1)
    return torch.arange(shape[-1]) < lengths.reshape(*shape[:-1], 1)


SHAPES = {"time batch": (6, 4), "batch length": (5, 7), "batch steps time": (3, 2, 5)}


def autograd(objective: PolicyObjective, log_prob, *rest, **kwargs) -> torch.Tensor:
    x = log_prob.detach().clone().requires_grad_()
    return torch.autograd.grad(objective.loss(x, *rest, **kwargs)[0], x)[0]


@each_objective
def test_gradient_is_the_closed_form(objective):
    for seed, (axes, shape) in enumerate(SHAPES.items()):
        data = batch(seed, *shape)
        valid = padding(*shape) if "length" in axes else torch.ones(shape, dtype=torch.bool)
        found = autograd(objective, *data, valid=valid)
        torch.testing.assert_close(found, by_hand(objective, *data, valid), rtol=1e-10, atol=1e-12)
        if valid.all():
            assert torch.equal(autograd(objective, *data), found)


@each_objective
def test_gradient_and_metrics_ignore_what_padding_holds(objective):
    data, valid = batch(1, 5, 7), padding(5, 7)
    loss, metrics = objective.loss(*data, valid=valid)
    gradient = autograd(objective, *data, valid=valid)
    assert (gradient[~valid] == 0).all() and gradient.abs().sum() > 0
    for garbage in (torch.nan, 50.0, -torch.inf):
        dirty = [torch.where(valid, x, garbage) for x in data]
        dirty_loss, dirty_metrics = objective.loss(*dirty, valid=valid)
        assert torch.equal(dirty_loss, loss) and torch.equal(autograd(objective, *dirty, valid=valid), gradient)
        assert all(torch.equal(dirty_metrics[k], metrics[k]) for k in metrics)


@each_objective
def test_functional_gradient_and_a_seed_axis_give_the_same_numbers(objective):
    log_prob, old, advantage = batch(2, 3, 5, 7)
    valid = torch.stack([padding(5, 7), padding(5, 7).flip(0), torch.ones(5, 7, dtype=torch.bool)])

    def loss(x, old, advantage, valid):
        return objective.loss(x, old, advantage, valid=valid)

    functional = torch.func.grad_and_value(loss, has_aux=True)
    gradients, (losses, metrics) = torch.func.vmap(functional)(log_prob, old, advantage, valid)
    for s in range(3):
        one = (log_prob[s], old[s], advantage[s])
        alone_loss, alone_metrics = objective.loss(*one, valid=valid[s])
        alone = autograd(objective, *one, valid=valid[s])
        torch.testing.assert_close(functional(*one, valid[s])[0], alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradients[s], alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(losses[s], alone_loss, rtol=1e-12, atol=1e-14)
        for key in metrics:
            torch.testing.assert_close(metrics[key][s], alone_metrics[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("part", parts("ratio"), ids=repr)
def test_ratio_at_the_old_policy_and_its_padding(part):
    (log_prob, old, _), valid = batch(3, 5, 7), padding(5, 7)
    if name(part) in ONE_AT_THE_OLD_POLICY:
        at_old = torch.exp(log_prob - part.log_denominator(log_prob, log_prob, valid))
        torch.testing.assert_close(at_old, torch.ones_like(at_old))
    clean = part.log_denominator(log_prob, old, valid)[valid]
    dirty = part.log_denominator(*(torch.where(valid, x, torch.nan) for x in (log_prob, old)), valid)[valid]
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize("part", parts("aggregation"), ids=repr)
@pytest.mark.parametrize("bounds", [(0.2, None), (0.1, 0.4)])
def test_ratio_to_the_old_policy_with_the_clip_is_ppo(part, bounds):
    (log_prob, old, advantage), valid = batch(4, 5, 7), padding(5, 7)
    objective = PolicyObjective(ratio=objectives.ratios.old(), stabilizer=clip(*bounds), aggregation=part)
    low, high = bounds[0], bounds[1] or bounds[0]
    x = log_prob.clone().requires_grad_()
    ratio = (x - old).exp()
    surrogate = torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - low, 1 + high) * advantage)
    (expected,) = torch.autograd.grad(-(part.weights(valid, F64) * surrogate).sum(), x)
    torch.testing.assert_close(autograd(objective, log_prob, old, advantage, valid=valid), expected)
