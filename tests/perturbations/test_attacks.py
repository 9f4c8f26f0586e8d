"""Attacks on observations: the known optimum of a linear policy, budgets, gradients, and what is never touched."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.models.agent import Agent, Network
from surefoot.models.distributions import Categorical, Deterministic, Gaussian, MultiDiscrete, SquashedGaussian
from surefoot.perturbations import REGISTRY, Attack, LearnedAttack, parse
from surefoot.perturbations.ascent import ascend, divergence, log_odds, project, shift, steepest
from surefoot.perturbations.attacks import GradientAttack, Target, aimed, divided, within
from surefoot.seeding import numpy_stream, torch_stream

EVERY = sorted(name for name, cls in REGISTRY.items() if issubclass(cls, Attack))
ATTACKS = [name for name in EVERY if not issubclass(REGISTRY[name], LearnedAttack)]
WHITE = [name for name in ATTACKS if issubclass(REGISTRY[name], GradientAttack)]
ONE = spaces.Box(-1, 1, (1,), np.float64)


class Linear:
    """The action wᵀs, in double precision, and the critic −(a − wᵀs)²."""

    def __init__(self, weights=(0.5, -1, 2)):
        self.w = torch.tensor(weights, dtype=torch.float64)

    def respond(self, observation, state, starts):
        return (observation.double() @ self.w).unsqueeze(-1)

    def criticise(self, observation, seen, state, starts):
        return -((self.respond(seen, None, None) - self.respond(observation, None, None)) ** 2).sum(-1)


def target(policy, space, action=ONE):
    return Target(policy, space, action)


def struck(text, victim, observation, seed=0, state=None):
    """What the policy sees instead of a batch, all rows under one attack."""
    attack = aimed(parse(text), victim)
    assert isinstance(attack, Attack)
    batch = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
    rngs = {row: numpy_stream(seed, "attack", row) for row in range(batch)}
    return attack.strike(victim, observation, state, np.ones(batch, bool), np.full(batch, attack.fixed), rngs)


def line(n=3, dtype=np.float64):
    return spaces.Box(*((0, 255) if dtype == np.uint8 else (-np.inf, np.inf)), (n,), dtype)


# --- a linear policy: baselines, exact check 10 ---


@pytest.mark.parametrize("name", WHITE)
def test_a_linear_policy_is_shifted_by_the_one_norm_of_its_weights(name):
    clean = np.random.default_rng(0).normal(size=(20, 3))
    seen = struck(f"{name}:0.1", target(Linear(), line()), clean)
    shifts = np.abs((seen - clean) @ Linear().w.numpy())
    np.testing.assert_allclose(shifts, 0.35, rtol=1e-12)
    np.testing.assert_array_equal(np.unique(np.sign(seen - clean) * [1, -1, 1], axis=1), np.sign(seen - clean)[:, :1])


@pytest.mark.parametrize("name", WHITE)
def test_in_two_norm_and_in_units_it_is_the_dual_norm(name):
    clean, w = np.zeros((5, 3)), Linear().w.numpy()
    seen = struck(f"{name}:0.1,l2", target(Linear(), line()), clean)
    np.testing.assert_allclose(np.abs(seen @ w), 0.1 * np.linalg.norm(w), rtol=1e-6)
    seen = struck(f"{name}:0.1,unit=2/1/0.5", target(Linear(), line()), clean)
    np.testing.assert_allclose(np.abs(seen @ w), 0.1 * (0.5 * 2 + 1 * 1 + 2 * 0.5), rtol=1e-12)
    seen = struck(f"{name}:0.1,l2,unit=2/1/0.5", target(Linear(), line()), clean)
    np.testing.assert_allclose(np.abs(seen @ w), 0.1 * np.linalg.norm(w * [2, 1, 0.5]), rtol=1e-6)


def test_random_changes_fill_their_budget_and_do_less_on_average():
    clean = np.zeros((400, 3))
    signs = struck("obs-random:0.1", target(Linear(), line()), clean)
    np.testing.assert_allclose(np.abs(signs), 0.1)
    assert np.abs(signs.mean(0)).max() < 0.02
    uniform = struck("obs-random:0.1,draws=uniform", target(Linear(), line()), clean)
    assert np.abs(uniform).max() <= 0.1
    assert np.abs(uniform).mean() == pytest.approx(0.05, abs=0.003)
    sphere = struck("obs-random:0.1,l2", target(Linear(), line()), clean)
    np.testing.assert_allclose(np.linalg.norm(sphere, axis=1), 0.1)
    assert np.abs(uniform @ Linear().w.numpy()).mean() < np.abs(signs @ Linear().w.numpy()).mean() < 0.35


# --- budgets ---


@given(
    name=st.sampled_from(ATTACKS),
    law=st.sampled_from(["linf", "l2"]),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8]),
    strength=st.just(0.0) | st.floats(1e-6, 30),
    unit=st.sampled_from(["raw", "1/1/1", "0.001/3/70"]),
    data=st.data(),
)
def test_the_budget_is_never_exceeded(name, law, dtype, strength, unit, data):
    elements = st.integers(0, 255) if dtype == np.uint8 else st.floats(-1e4, 1e4, width=32)
    clean = data.draw(hnp.arrays(dtype, (2, 3), elements=elements))
    seen = struck(f"{name}:{strength!r},{law},unit={unit}", target(Linear(), line(3, dtype)), clean)
    assert seen.dtype == dtype
    sizes = np.ones(3) if unit == "raw" else np.array([float(x) for x in unit.split("/")])
    change = seen.astype(np.float64) - clean.astype(np.float64)
    if law == "linf":
        assert (np.abs(change) <= strength * sizes).all()
    assert np.linalg.norm(change / sizes, axis=1).max() <= strength * (1 if law == "l2" else 3**0.5) * (1 + 1e-12)


def test_rounding_goes_towards_the_clean_observation():
    clean, change = np.float32([1e6, -1e6, 0.1, 3]), np.array([0.2, 0.2, 1e-9, -0.7])
    moved = within(clean, change).astype(np.float64)
    assert (np.abs(moved - clean) <= np.abs(change)).all()
    assert np.float32(1e6) + np.float32(0.05) == np.float32(1e6 + 0.0625)  # to the nearest it would be too far
    assert within(np.float32([1e6]), np.array([0.05])) == np.float32(1e6)
    np.testing.assert_array_equal(within(np.uint8([9, 250]), np.array([-2.9, 9.0])), np.uint8([7, 255]))


@pytest.mark.parametrize("name", ATTACKS)
def test_other_rows_other_entries_and_the_batch_itself_are_untouched(name):
    space = spaces.Dict(
        a=line(2, np.float32), b=line(2, np.float32), n=spaces.Discrete(4), action_mask=spaces.MultiBinary(2)
    )
    victim = target(Agent_of(space, spaces.Discrete(2)), space, spaces.Discrete(2))
    rng = np.random.default_rng(1)
    clean = {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": rng.normal(size=(3, 2)).astype(np.float32)}
    clean |= {"n": np.array([0, 3, 2]), "action_mask": np.ones((3, 2), np.int8)}
    kept = {key: x.copy() for key, x in clean.items()}
    for keys, touched in (("", {"a", "b"}), ("b", {"b"})):
        attack = aimed(parse(f"{name}:0.5" + (f",keys={keys}" if keys else "")), victim)
        rngs = {1: numpy_stream(0, "attack")}
        seen = attack.strike(victim, clean, None, np.ones(3, bool), np.array([0, 0.5, 0]), rngs)
        for key, x in clean.items():
            assert x.tobytes() == kept[key].tobytes()
            rows = [0, 2] if key in touched else [0, 1, 2]
            assert seen[key].dtype == x.dtype
            assert seen[key][rows].tobytes() == x[rows].tobytes()
        changed = {key for key, x in clean.items() if seen[key][1].tobytes() != x[1].tobytes()}
        assert changed == touched


def Agent_of(space, action, seed=0, scales=None, **network):  # noqa: N802
    """An agent with random weights, large enough for its actions to differ."""
    made = Network(hidden=(16,), **network)
    agent = Agent(made, space, action, torch.zeros(Agent_size(made, space, action)), scales or {})
    vector = 0.7 * torch.randn(len(agent.vector), generator=torch_stream(seed, "weights"))
    return Agent(made, space, action, vector, scales or {})


def Agent_size(network, space, action):  # noqa: N802
    return sum(p.numel() for p in network.make(space, action).parameters())


# --- damage, gradients and ascent ---

KINDS = [
    Gaussian(2),
    SquashedGaussian(2, low=(-1, -3), high=(1, 3)),
    Deterministic(4, (-1,) * 4, (1,) * 4),
    Categorical((4,)),
    MultiDiscrete((2, 2)),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
@pytest.mark.parametrize("measure", [shift, divergence])
def test_damage_is_least_without_a_change_and_has_the_right_gradient(kind, measure):
    clean, seen = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch_stream(0, "params"))
    assert torch.autograd.gradcheck(lambda x: measure(kind, clean, x), seen.clone().requires_grad_())
    if measure is divergence or not isinstance(kind, MultiDiscrete):
        assert measure(kind, clean, clean).abs().max() < 1e-12
        assert (measure(kind, clean, seen) > 0).all()


def test_distances_are_those_of_the_actions():
    clean, seen = torch.tensor([[1.0, 0, 0.5, -1]]), torch.tensor([[0.5, 2, 9, 9]])
    assert shift(Gaussian(2), clean, seen).item() == pytest.approx(0.25 + 4)
    squashed = (np.tanh(1) - np.tanh(0.5)) ** 2 + np.tanh(2) ** 2
    assert shift(SquashedGaussian(2, low=(0, 0), high=(9, 9)), clean, seen).item() == pytest.approx(squashed)
    same = torch.cat([seen[:, :2], clean[:, 2:]], -1)  # equal deviations: half the squared distance in their units
    expected = 0.5 * (0.25 * np.exp(-1) + 4 * np.exp(2))
    assert divergence(Gaussian(2), clean, same).item() == pytest.approx(expected)


def test_log_odds_rise_with_the_cross_entropy_but_do_not_saturate():
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch_stream(0, "logits")).requires_grad_()
    choice = logits.argmax(-1)
    entropy = torch.nn.functional.cross_entropy(logits, choice, reduction="none")
    torch.testing.assert_close(torch.nn.functional.softplus(log_odds(logits, choice)), entropy)
    ours, theirs = (
        torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (log_odds(logits, choice), entropy)
    )
    torch.testing.assert_close(torch.nn.functional.normalize(ours), torch.nn.functional.normalize(theirs))
    sure = torch.tensor([[300.0, 0, 0]], requires_grad=True)
    assert torch.autograd.grad(torch.nn.functional.cross_entropy(sure, torch.tensor([0])), sure)[0].abs().max() == 0
    assert torch.autograd.grad(log_odds(sure, torch.tensor([0])).sum(), sure)[0].abs().max() == 1


@given(st.integers(0, 2**20), st.sampled_from(["linf", "l2"]))
def test_projection_and_steepest_ascent_by_their_optimality(seed, law):
    rng = np.random.default_rng(seed)
    x, radius, order = torch.tensor(rng.normal(size=(1, 5))), torch.tensor([[rng.uniform(0.1, 2)]]), {"linf": np.inf}
    p = project(x, radius, law)
    ball = rng.normal(size=(200, 5))
    ball *= radius.numpy() * rng.random((200, 1)) / np.linalg.norm(ball, order.get(law, 2), axis=1, keepdims=True)
    assert np.linalg.norm(p[0], order.get(law, 2)) <= radius.item() * (1 + 1e-12)
    assert np.linalg.norm(p[0] - x[0]) <= np.linalg.norm(ball - x.numpy(), axis=1).min() + 1e-12
    best = (x * radius * steepest(x, law)).sum().item()
    assert best >= (ball @ x[0].numpy()).max()


def test_the_first_step_follows_finite_differences():
    space = line(3, np.float32)
    agent = Agent_of(space, spaces.Box(-1, 1, (2,), np.float32))
    agent.module.double()
    clean = torch.randn(4, 3, dtype=torch.float64, generator=torch_stream(0, "states"))
    start = 0.01 * torch.randn(4, 3, dtype=torch.float64, generator=torch_stream(1, "states"))

    def damage(x):
        distribution = agent.module.distribution
        return shift(distribution, agent.module.policy(clean)[0].detach(), agent.module.policy(x)[0])

    step = 1e-6 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        slopes = [(damage(clean + start + d) - damage(clean + start - d)) / 2e-6 for d in step]
    gradient = torch.stack(slopes, -1)
    for law in ("linf", "l2"):
        radius = torch.full((4,), 0.3, dtype=torch.float64)
        moves = ascend(lambda m: damage(clean + m[""]), {"": start}, radius, law, 1)[""]
        torch.testing.assert_close(moves, 0.3 * steepest(gradient, law), rtol=1e-4, atol=1e-6)


ACTIONS = [spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3), spaces.MultiDiscrete([2, 3])]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda space: type(space).__name__)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**20), law=st.sampled_from(["linf", "l2"]))
def test_pgd_does_no_less_than_fgsm_in_any_state_and_more_than_chance(action, seed, law):
    space = line(4, np.float32)
    victim = target(Agent_of(space, action, seed), space, action)
    clean = np.random.default_rng(seed).normal(size=(64, 4)).astype(np.float32)

    def damage(text):
        seen = struck(f"{text}:0.5,{law}", victim, clean, seed)
        with torch.no_grad():
            distribution, before = victim.respond(torch.from_numpy(clean), None, None)
            return shift(distribution, before, victim.respond(torch.from_numpy(seen), None, None)[1]).numpy()

    pgd, fgsm, random = damage("obs-pgd"), damage("obs-fgsm"), damage("obs-random")
    assert (pgd >= fgsm - 1e-4 * (1 + np.abs(fgsm))).all()
    assert pgd.mean() > fgsm.mean() > random.mean()


def test_one_step_of_pgd_is_fgsm_to_the_bit():
    space = line(4, np.float32)
    victim = target(Agent_of(space, spaces.Discrete(3)), space, spaces.Discrete(3))
    clean = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert struck("obs-pgd:0.2,steps=1", victim, clean).tobytes() == struck("obs-fgsm:0.2", victim, clean).tobytes()


def test_mad_is_measured_in_the_policy_s_own_deviations():
    class Two:
        """Two actions: the second follows another input and is nearly certain."""

        def respond(self, observation, state, starts):
            x = observation.double()
            mean = torch.stack([x[:, 0] + x[:, 1], 0.5 * x[:, 0] - 0.5 * x[:, 1]], -1)
            log_std = torch.tensor([0.0, -5.0], dtype=torch.float64).expand_as(mean)
            return Gaussian(2), torch.cat([mean, log_std], -1)

    victim = target(Two(), line(2), spaces.Box(-1, 1, (2,), np.float64))
    far, sure = (struck(f"{name}:0.1", victim, np.zeros((6, 2))) for name in ("obs-pgd", "obs-mad"))
    assert np.abs(far @ [1, 1]).max() == pytest.approx(0.2)  # the larger distance, from some starts
    assert np.abs(far @ [1, 1]).mean() < 0.2
    np.testing.assert_allclose(np.abs(sure @ [0.5, -0.5]), 0.1)  # the larger number of deviations


def test_the_critic_attack_lowers_the_value_of_the_action_in_the_true_state():
    class Cautious(Linear):
        """Its critic loves large actions."""

        def criticise(self, observation, seen, state, starts):
            return self.respond(seen, None, None)[:, 0]

    seen = struck("obs-critic:0.1", target(Cautious(), line()), np.zeros((4, 3)))
    np.testing.assert_allclose(seen @ Linear().w.numpy(), -0.35, rtol=1e-12)


class Noisy(Linear):
    """The sine of a linear policy, which adds noise of deviation 1 to what it sees."""

    noisy = True

    def respond(self, observation, state, starts):
        return torch.sin(super().respond(observation, state, starts))

    def respond_noisy(self, observation, draws, state, starts):
        self.drawn = draws
        noise = torch.randn((draws, *observation.shape), dtype=torch.float64)
        answers = torch.sin(Linear.respond(self, observation + noise, None, None))
        return Gaussian(1), torch.cat([answers, torch.zeros_like(answers)], -1)

    def intended(self, observation, state, starts):
        return Gaussian(1), self.respond_noisy(observation, 1000, None, None)[1].mean(0)


@pytest.mark.parametrize("name", ["obs-fgsm", "obs-pgd", "obs-mad"])
def test_the_smoothed_attack_draws_the_policy_s_noise_in_every_gradient(name):
    """Within the budget as without it, from what the policy intends; and refused where there is no noise."""
    torch.manual_seed(0)
    policy, space = Noisy(weights=(1.0,)), line(1)
    clean = np.full((40, 1), 0.4)
    seen = struck(f"{name}:0.3,draws=8", target(policy, space), clean)
    assert policy.drawn == 8
    assert np.abs(seen - clean).max() <= 0.3 + 1e-12 and np.abs(seen - clean).max() > 0.2
    plain = struck(f"{name}:0.3", target(policy, space), clean)
    assert np.abs(plain - clean).max() <= 0.3 + 1e-12
    with pytest.raises(UsageError, match="draws=8 is not allowed, because Linear adds no noise"):
        struck(f"{name}:0.3,draws=8", target(Linear(), line()), np.zeros((2, 3)))


def test_a_recurrent_agent_is_attacked_in_the_state_that_it_holds():
    space, action = line(3, np.float32), spaces.Box(-1, 1, (2,), np.float32)
    agent = Agent_of(space, action, core="gru", core_size=8)
    victim = target(agent, space, action)
    clean = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    state = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)

    class Held:
        """The agent with its state built in."""

        def respond(self, observation, _, starts):
            return agent.respond(observation, np.resize(state, (len(observation), 8)), np.zeros(len(observation), bool))

    attack, rngs = parse("obs-pgd:0.3,unit=raw"), {row: numpy_stream(0, "attack", row) for row in range(5)}
    seen = attack.strike(victim, clean, state, np.zeros(5, bool), np.full(5, 0.3), rngs)
    assert seen.tobytes() == struck("obs-pgd:0.3,unit=raw", target(Held(), space, action), clean).tobytes()
    assert seen.tobytes() != struck("obs-pgd:0.3,unit=raw", victim, clean).tobytes()  # at the start of an episode


def test_the_unit_is_the_normaliser_s_where_there_is_one():
    space, action = line(3, np.float32), spaces.Box(-1, 1, (2,), np.float32)
    deviation = torch.tensor([0.5, 2.0, 10.0])
    agent = Agent_of(space, action, scales={"": (torch.ones(3), 1 / deviation)})
    victim = target(agent, space, action)
    assert str(aimed(parse("obs-fgsm:0.1"), victim)) == "obs-fgsm:0.1,unit=normalized"
    assert str(aimed(parse("obs-fgsm:0.1"), target(Linear(), line()))) == "obs-fgsm:0.1,unit=raw"
    clean = np.zeros((2, 3), np.float32)
    np.testing.assert_allclose(np.abs(struck("obs-fgsm:0.1", victim, clean)), 0.1 * deviation.expand(2, 3), rtol=1e-6)
    np.testing.assert_allclose(np.abs(struck("obs-fgsm:0.1,unit=raw", victim, clean)), 0.1, rtol=1e-6)


# --- text, and what is refused ---


@pytest.mark.parametrize("name", EVERY)
def test_they_print_as_what_parse_reads_and_sweep_as_any_other(name):
    more = ",steps=3" if hasattr(parse(name), "steps") and name not in ("obs-fgsm", "obs-pa-ad") else ""
    for text in (f"{name}:0.05", f"{name}:0..0.2,l2", f"{name}:0.1{more},unit=0.5/2,keys=a/b", f"{name}:0.1,unit=0.5"):
        attack = parse(text)
        assert parse(str(attack)) == attack
    cells = parse(f"{name}:0..0.2").grid(3)
    assert [cell.coordinates for cell in cells] == [((name, x),) for x in (0.0, 0.1, 0.2)]
    assert cells[0].perturbation.identity
    both = parse(f"{name}:0.1 + observation-delay:1")
    assert both.channels == {"attack", "observation"}
    inside, attacks = divided(both)
    assert str(inside) == "observation-delay:1"
    assert attacks == (parse(f"{name}:0.1"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("obs-pgd:-0.1", "strength=-0.1"),
        ("obs-pgd:0.1,steps=0", "steps=0"),
        ("obs-pgd:0.1,steps=2.5", "steps=2.5"),
        ("obs-pgd:0.1,l1", "'linf', 'l2'"),
        ("obs-fgsm:0.1,steps=3", "no hyperparameter 'steps'"),
        ("obs-pgd:0.1,unit=0/1", "positive numbers"),
        ("obs-pgd:0.1,unit=metres", "positive numbers"),
        ("obs-pgt:0.1", "obs-pgd"),
    ],
)
def test_bad_texts_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse(text)


class Deaf:
    """It answers in NumPy."""

    def respond(self, observation, state, starts):
        return torch.from_numpy(np.zeros((len(observation), 1)))


class Broken:
    def respond(self, observation, state, starts):
        raise KeyError("weights")


@pytest.mark.parametrize(
    ("text", "policy", "words"),
    [
        ("obs-pgd:0.1", lambda observations: observations, "offers none.*obs-random, observation-noise"),
        ("obs-pgd:0.1", Deaf(), "does not depend on the observation"),
        ("obs-pgd:0.1", Broken(), "KeyError"),
        ("obs-critic:0.1", Deaf(), "needs a critic, and Deaf offers none"),
        ("obs-pgd:0.1,unit=1/2", Linear(), "unit has 2 numbers.*shape \\(3,\\)"),
        ("obs-pgd:0.1,unit=normalized", Linear(), "no such unit"),
    ],
)
def test_policies_that_cannot_be_attacked_are_refused(text, policy, words):
    with pytest.raises(UsageError, match=words):
        aimed(parse(text), target(policy, line()))


def test_attacks_do_not_wrap_environments_or_alter_data():
    env = make_single("Pendulum-v1")
    for act in (lambda p: p.wrap(env), lambda p: p.on_batch(np.zeros((2, 3)), np.random.default_rng(0))):
        with pytest.raises(UsageError, match="stress and evaluate"):
            act(parse("obs-pgd:0.1"))
    with pytest.raises(UsageError, match="Box observation"):
        parse("obs-pgd:0.1").check_env(gymnasium.make("FrozenLake-v1"))
