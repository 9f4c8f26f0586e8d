"""A module as a function of one vector: the same numbers and gradients as the module itself."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces as gs
from torch import nn

from surefoot.models.distributions import for_space
from surefoot.models.functional import Flat, Model, initial, over_seeds
from surefoot.models.networks import ActorCritic

CASES = [{}, {"shared": True}, {"core": "gru"}, {"core": "lstm", "shared": True}]
each_case = pytest.mark.parametrize("settings", CASES, ids=str)


def make(**settings) -> ActorCritic:
    return ActorCritic(gs.Box(-1, 1, (3,)), for_space(gs.Box(-1, 1, (2,))), hidden=(8, 4), core_size=5, **settings)


def inputs(module: ActorCritic) -> tuple[torch.Tensor, ...]:
    if not module.state_size:
        return (torch.randn(6, 3),)
    return torch.randn(4, 6, 3), torch.randn(6, module.state_size), torch.rand(4, 6) < 0.3


@each_case
def test_unflatten_and_flatten_are_inverse_and_views(settings):
    flat = Flat(make(**settings))
    vector = torch.arange(flat.size, dtype=torch.float32)
    params = flat.unflatten(vector)
    assert torch.equal(flat.flatten(params), vector)
    assert torch.equal(flat.flatten(dict(reversed(params.items()))), vector), "the order is the module's"
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in flat.module.named_parameters()}
    assert flat.size == sum(p.numel() for p in flat.module.parameters())
    next(iter(params.values())).fill_(-1)
    assert vector[0] == -1


@each_case
def test_binding_equals_the_functional_call_equals_a_module_with_these_weights(settings):
    flat, vector = Flat(make(**settings)), initial(lambda: make(**settings), torch.Generator().manual_seed(1))
    plain = make(**settings)
    nn.utils.vector_to_parameters(vector.clone(), plain.parameters())
    x = inputs(plain)
    called = flat(vector, *x)
    bound = flat.bind(vector)(*x)
    for ours, also, expected in zip(called, bound, plain(*x), strict=True):
        if expected is not None:
            assert torch.equal(ours, also)
            torch.testing.assert_close(ours, expected)


@each_case
def test_the_gradient_of_the_vector_is_autograds_on_the_module(settings):
    module, flat = make(**settings), Flat(make(**settings))
    vector = nn.utils.parameters_to_vector(module.parameters()).detach().clone().requires_grad_()
    x = inputs(module)

    def loss(outputs) -> torch.Tensor:
        params, values, _ = outputs
        return (params**2).sum() + params.sin().sum() + (values**3).sum()

    (ours,) = torch.autograd.grad(loss(flat(vector, *x)), vector)
    loss(module(*x)).backward()
    assert ours.abs().sum() > 0
    torch.testing.assert_close(ours, torch.cat([p.grad.flatten() for p in module.parameters()]))
    mapped = torch.func.grad(lambda v: loss(flat(v, *x)))(vector.detach())
    torch.testing.assert_close(mapped, ours)


@each_case
def test_masks_by_name_tell_policy_from_critic(settings):
    model = Model(make(**settings))
    vector = nn.utils.parameters_to_vector(model.module.parameters()).detach().requires_grad_()
    x = inputs(model.module)
    assert model.mask(lambda name: True).all() and not model.mask(lambda name: False).any()
    # Not the zero gradients of single numbers, but which parameters a random policy loss can reach at all.
    (gradient,) = torch.autograd.grad((model(vector, *x)[0] * torch.randn(())).sum(), vector)
    assert not gradient[~model.policy_mask].any() and (~model.policy_mask).any()
    by_name = model.unflatten(model.policy_mask)
    assert all(bool(flags.all()) == name.startswith("actor.") for name, flags in by_name.items())
    values = model.evaluate(vector, dict(zip(("observation", "state", "starts"), x, strict=False)))
    assert all(torch.equal(a, b) for a, b in zip(values, model(vector, *x), strict=False))


def test_initial_is_reproducible_and_has_nothing_to_do_with_the_global_generator():
    torch.manual_seed(1)
    first = initial(make, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = initial(make, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert not torch.equal(first, initial(make, torch.Generator().manual_seed(6)))
    torch.manual_seed(5)
    assert torch.equal(first, nn.utils.parameters_to_vector(make().parameters()))


def test_initial_leaves_the_global_generator_alone_when_making_fails():
    def broken() -> nn.Module:
        torch.rand(3)
        raise RuntimeError("no")

    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        initial(broken, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("shared", [0, 1])
def test_over_seeds_is_a_loop_over_the_leading_axis(seeds, shared):
    def function(a: torch.Tensor, b: dict[str, torch.Tensor], c: torch.Tensor) -> tuple[torch.Tensor, dict]:
        return (a * b["x"]).sum() + c.sum(), {"y": b["x"] - c}

    a, x, c = torch.randn(seeds, 4), torch.randn(seeds, 4), torch.randn(*(() if shared else (seeds,)), 4)
    total, rest = over_seeds(function, seeds, shared=shared)(a, {"x": x}, c)
    for i in range(seeds):
        expected, more = function(a[i], {"x": x[i]}, c if shared else c[i])
        torch.testing.assert_close(total[i], expected)
        torch.testing.assert_close(rest["y"][i], more["y"])
