"""Networks: every space has its encoder, cores equal plain references step by step, a start forgets."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs
from torch import nn

from surefoot.errors import UsageError
from surefoot.models.distributions import for_space
from surefoot.models.layers import GRU, LSTM
from surefoot.models.networks import ACTIVATIONS, CORES, ActorCritic, Encoder, ImpalaCNN, NatureCNN, flat_size, mlp

F32, F64 = torch.float32, torch.float64
VECTOR = gs.Box(-1, 1, (3,))


def make(space: gym.Space = VECTOR, actions: gym.Space | None = None, seed: int = 0, **settings) -> ActorCritic:
    torch.manual_seed(seed)
    return ActorCritic(space, for_space(actions or gs.Discrete(4)), **settings)


def batch_of(space: gym.Space, count: int, seed: int = 0):
    space.seed(seed)
    samples = [space.sample() for _ in range(count)]
    if isinstance(space, gs.Dict):
        return {k: torch.as_tensor(np.stack([s[k] for s in samples])) for k in space.spaces}
    return torch.as_tensor(np.stack(samples))


def randomized(module: nn.Module) -> nn.Module:
    """Biases too, so that a forgotten one shows."""
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double()


# --- initialisation --------------------------------------------------------------------------------------------------


def singular_values(layer: nn.Linear) -> torch.Tensor:
    return torch.linalg.svdvals(layer.weight.detach())


def test_initial_weights_are_orthogonal_with_the_usual_gains():
    net = make(hidden=(32, 16))
    for head, gain in ((net.actor, 0.01), (net.critic, 1.0)):
        hidden = [m for m in head.encoder.mlp if isinstance(m, nn.Linear)]
        assert [m.out_features for m in hidden] == [32, 16]
        for layer, expected in [*((m, math.sqrt(2)) for m in hidden), (head.output, gain)]:
            torch.testing.assert_close(singular_values(layer), torch.full((min(layer.weight.shape),), expected))
            assert (layer.bias == 0).all()


def test_a_fresh_policy_is_nearly_uniform_and_its_deviation_is_as_asked():
    params, _, _ = make()(batch_of(VECTOR, 50))
    assert params.abs().max() < 0.1
    params, _, _ = make(actions=gs.Box(-1, 1, (2,)), log_std_init=-0.7)(batch_of(VECTOR, 50))
    assert params.shape == (50, 4)
    torch.testing.assert_close(params[:, 2:], torch.full((50, 2), -0.7))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mlp_is_linear_layers_each_followed_by_the_activation(name):
    net = mlp(3, (5, 2), name)
    x = torch.randn(4, 3)
    expected = x
    for layer in (net[0], net[2]):
        expected = {
            "tanh": torch.tanh, "relu": torch.relu, "swish": nn.functional.silu,
            "elu": nn.functional.elu, "gelu": nn.functional.gelu,
        }[name](expected @ layer.weight.T + layer.bias)  # fmt: skip
    torch.testing.assert_close(net(x), expected)


def test_no_hidden_layers_is_a_linear_policy():
    net = make(hidden=())
    x = batch_of(VECTOR, 5)
    torch.testing.assert_close(net(x)[0], x @ net.actor.output.weight.T)


# --- observations ----------------------------------------------------------------------------------------------------


def encode(space: gym.Space, x, **settings) -> torch.Tensor:
    return Encoder(space, settings.pop("hidden", ()), "tanh", settings.pop("cnn", "nature"))(x, F32)


def test_discrete_observations_are_one_hot_from_their_start():
    got = encode(gs.Discrete(4, start=-1), torch.tensor([[-1, 2], [0, 1]]))
    assert torch.equal(got, torch.eye(4)[torch.tensor([[0, 3], [1, 2]])])


def test_multi_discrete_observations_are_one_hot_side_by_side_from_their_starts():
    space = gs.MultiDiscrete([2, 3], start=[0, 10])
    got = encode(space, torch.tensor([[1, 10], [0, 12]]))
    assert got.tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]
    assert flat_size(space) == 5


def test_boxes_of_any_rank_and_bits_are_flattened():
    for space in (gs.Box(-1, 1, (2, 3)), gs.Box(-1, 1, ()), gs.MultiBinary(3), gs.Box(0, 9, (2,), np.int64)):
        x = batch_of(space, 12)
        got = encode(space, x.reshape(4, 3, *x.shape[1:]))
        assert got.dtype == F32 and torch.equal(got, x.reshape(4, 3, -1).float())


def test_dict_observations_are_joined_in_the_order_of_the_space_and_without_the_mask():
    space = gs.Dict(b=gs.Discrete(2), a=gs.Box(-1, 1, (2,)), action_mask=gs.MultiBinary(3))
    x = {"action_mask": torch.ones(1, 3), "b": torch.tensor([1]), "a": torch.tensor([[0.5, -0.5]])}
    assert encode(space, x).tolist() == [[0, 1, 0.5, -0.5]]
    assert encode(space, x, hidden=(7,)).shape == (1, 7)


def test_other_spaces_are_refused():
    with pytest.raises(UsageError, match=r"MultiDiscrete \(1-D\)"):
        make(gym.spaces.MultiDiscrete([[2, 3], [4, 5]]))
    with pytest.raises(UsageError, match="byte observations with 4 axes .* as the wrapper frame_stack does"):
        make(gym.spaces.Box(0, 255, (2, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="has no entry besides 'action_mask'"):
        make(gym.spaces.Dict(action_mask=gym.spaces.MultiBinary(2)), gym.spaces.Discrete(2))
    with pytest.raises(UsageError, match=r"'action_mask' of the shape \(4,\), but .* needs \(3,\)"):
        make(gym.spaces.Dict(x=VECTOR, action_mask=gym.spaces.MultiBinary(4)), gym.spaces.Discrete(3))
    with pytest.raises(UsageError, match="observation space Text.*use Box, Discrete"):
        make(gs.Text(3))


@pytest.mark.parametrize(("cnn", "features"), [("nature", 512), ("impala", 256)])
@pytest.mark.parametrize("leading", [(2,), (2, 1)])
def test_images_are_encoded_alike_with_channels_first_and_last(cnn, features, leading):
    first, last = gs.Box(0, 255, (3, 36, 40), np.uint8), gs.Box(0, 255, (36, 40, 3), np.uint8)
    torch.manual_seed(0)
    encoder = Encoder(first, (8,), "tanh", cnn)
    torch.manual_seed(0)
    other = Encoder(last, (8,), "tanh", cnn)
    x = batch_of(first, 2).reshape(*leading, 3, 36, 40)
    got = encoder(x, F32)
    assert got.shape == (*leading, features) and encoder.features == features
    assert torch.equal(got, other(x.movedim(-3, -1), F32))
    network = encoder.images["image_"]
    torch.testing.assert_close(got.reshape(-1, features), network(x.reshape(-1, 3, 36, 40) / 255))


def test_the_convolutions_have_the_shapes_of_their_papers():
    nature, impala = NatureCNN((4, 84, 84)), ImpalaCNN((3, 64, 64))
    assert nature.linear.in_features == 64 * 7 * 7
    assert impala.linear.in_features == 32 * 8 * 8
    assert sum(isinstance(m, nn.Conv2d) for m in impala.modules()) == 15
    assert nature(torch.rand(2, 4, 84, 84)).shape == (2, 512) and impala(torch.rand(2, 3, 64, 64)).shape == (2, 256)


def test_an_image_too_small_for_nature_is_refused_and_impala_takes_it():
    small = gs.Box(0, 255, (35, 60, 3), np.uint8)
    with pytest.raises(UsageError, match=r"at least 36×36, got \(35, 60\); use cnn='impala'"):
        make(small)
    assert make(small, cnn="impala")(batch_of(small, 2))[1].shape == (2,)


def test_images_beside_vectors_go_through_the_mlp_together():
    space = gs.Dict(image=gs.Box(0, 255, (16, 16, 3), np.uint8), speed=gs.Box(-1, 1, (2,)))
    net = make(space, cnn="impala", hidden=(8,))
    assert net.actor.encoder.mlp[0].in_features == 258
    assert net(batch_of(space, 3))[0].shape == (3, 4)


# --- recurrent cores -------------------------------------------------------------------------------------------------


def test_gru_equals_the_reference_of_torch():
    """Torch's cell has the same equations, gates in the order reset, update, new."""
    ours = randomized(GRU(3, 5))
    theirs = nn.GRUCell(3, 5).double()
    theirs.load_state_dict(
        {
            "weight_ih": ours.input.weight, "bias_ih": ours.input.bias,
            "weight_hh": ours.hidden.weight, "bias_hh": ours.hidden.bias,
        }
    )  # fmt: skip
    state = expected = torch.randn(4, 5, dtype=F64)
    for _ in range(6):
        x = torch.randn(4, 3, dtype=F64)
        output, state = ours(x, state)
        expected = theirs(x, expected)
        torch.testing.assert_close(output, expected)
        assert output is state


def test_lstm_equals_its_equations_step_by_step():
    ours = randomized(LSTM(3, 5))

    def gate(name: int, x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        rows = slice(5 * name, 5 * name + 5)
        a, b = ours.input, ours.hidden
        return x @ a.weight[rows].T + a.bias[rows] + hidden @ b.weight[rows].T + b.bias[rows]

    state = torch.randn(4, 10, dtype=F64)
    hidden, cell = state[:, :5], state[:, 5:]
    for _ in range(6):
        x = torch.randn(4, 3, dtype=F64)
        output, state = ours(x, state)
        keep, take = torch.sigmoid(gate(1, x, hidden) + 1), torch.sigmoid(gate(0, x, hidden))
        cell = keep * cell + take * torch.tanh(gate(2, x, hidden))
        hidden = torch.sigmoid(gate(3, x, hidden)) * torch.tanh(cell)
        torch.testing.assert_close(output, hidden)
        torch.testing.assert_close(state, torch.cat([hidden, cell], -1))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("shared", [False, True])
def test_an_unrolled_start_equals_two_separate_sequences(core, shared):
    net = make(core=core, core_size=5, shared=shared)
    net.apply(lambda m: nn.init.normal_(m.weight, std=0.5) if isinstance(m, nn.Linear) else None)
    x, state = torch.randn(7, 2, 3), torch.randn(2, net.state_size)
    starts = torch.zeros(7, 2, dtype=torch.bool)
    starts[4, 0] = True
    params, values, last = net(x, state, starts)
    none = torch.zeros_like(starts)
    for b, pieces in ((0, [(0, 4, state), (4, 7, torch.zeros_like(state))]), (1, [(0, 7, state)])):
        for begin, end, carried in pieces:
            piece_params, piece_values, piece_last = net(x[begin:end], carried, none[begin:end])
            torch.testing.assert_close(params[begin:end, b], piece_params[:, b])
            torch.testing.assert_close(values[begin:end, b], piece_values[:, b])
        torch.testing.assert_close(last[b], piece_last[b])
    carried_on, _, _ = net(x, state, none)
    assert not torch.allclose(carried_on[4:, 0], params[4:, 0])


@pytest.mark.parametrize("core", CORES)
def test_a_sequence_cut_in_two_carries_its_state(core):
    net = make(core=core, core_size=5)
    assert net.state_size == {"gru": 10, "lstm": 20}[core]
    x, state, none = torch.randn(6, 2, 3), torch.randn(2, net.state_size), torch.zeros(6, 2, dtype=torch.bool)
    params, values, last = net(x, state, none)
    first_params, first_values, between = net(x[:2], state, none[:2])
    then_params, then_values, end = net(x[2:], between, none[2:])
    torch.testing.assert_close(torch.cat([first_params, then_params]), params)
    torch.testing.assert_close(torch.cat([first_values, then_values]), values)
    torch.testing.assert_close(end, last)
    only_actor, actor_state = net.policy(x, state[:, : net.core_state], none)
    torch.testing.assert_close(only_actor, params)
    torch.testing.assert_close(actor_state, last[:, : net.core_state])


# --- actor and critic ------------------------------------------------------------------------------------------------


def test_a_shared_encoder_is_one_and_its_gradient_comes_from_both():
    apart, shared = make(), make(shared=True)
    assert shared.actor.encoder is shared.critic.encoder and apart.actor.encoder is not apart.critic.encoder
    assert not any(name.startswith("critic.encoder") for name, _ in shared.named_parameters())
    x = batch_of(VECTOR, 5)
    for net, touched in ((apart, False), (shared, True)):
        net(x)[1].sum().backward()
        assert all((p.grad is not None) == touched for p in net.actor.encoder.parameters())
        assert net.actor.output.weight.grad is None


def test_an_image_may_have_a_dot_in_its_name():
    space = gym.spaces.Dict({"cam.left": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)})
    params, _, _ = make(space, cnn="impala")(batch_of(space, 2))
    assert params.shape[0] == 2


def test_the_critic_may_be_linear():
    module = make(critic_hidden=())
    assert len(module.critic.encoder.mlp) == 0 and len(module.actor.encoder.mlp) == 4


def test_the_critic_may_be_wider_than_the_actor():
    net = make(hidden=(8,), critic_hidden=(32, 16))
    assert (net.actor.encoder.features, net.critic.encoder.features) == (8, 16)


def test_masked_choices_are_impossible_and_masks_need_choices():
    space = gs.Dict(x=VECTOR, action_mask=gs.MultiBinary(4))
    x = {"x": torch.randn(6, 3), "action_mask": torch.tensor([1, 0, 0, 1], dtype=torch.int8).expand(6, 4)}
    params, _, _ = make(space)(x)
    assert (params.softmax(-1)[:, 1:3] == 0).all() and (params.softmax(-1)[:, [0, 3]] > 0.4).all()
    with pytest.raises(UsageError, match="'action_mask', but masks need discrete actions"):
        make(space, gs.Box(-1, 1, (2,)))
