"""Training of smoothed agents and of ordinary ones that are smoothed at test time, and their returns under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.parts import Measurements, Summary
from surefoot.evaluate.certify_actions import certify_actions
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.ppo import PPO
from surefoot.methods.robust.smoothed_agents import SmoothedPPO
from surefoot.methods.robust.smoothed_agents.denoised import SmoothedDQN
from surefoot.models.agent import Agent

# --- CartPole: a denoiser for a Q-network ----------------------------------------------------------------------------

POLES, DEVIATION, PLAYED = "CartPole-v1", 0.3, 50
BASE: dict[str, Any] = {  # RL Baselines3 Zoo
    "hidden": (256, 256),
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1000,
    "train_every": 256,
    "updates_per_round": 128,
    "target_every": 128,
    "epsilon_end": 0.04,
    "epsilon_fraction": 0.07,
}
DENOISED: dict[str, Any] = {
    "S-DQN": SmoothedDQN(**BASE, sigma=DEVIATION, acting_draws=50, base_updates=25_000),
    "S-DQN (S-PGD)": SmoothedDQN(
        **BASE, sigma=DEVIATION, acting_draws=50, base_updates=25_000, adversarial=0.3, radius=DEVIATION / 4
    ),
}
ATTACKS = {
    f"{name}, {text}": f"obs-pgd:{size:g},l2,unit=raw{more}"
    for text, size in (("σ/4", DEVIATION / 4), ("σ/2", DEVIATION / 2))
    for name, more in (("PGD", ""), ("S-PGD", ",draws=1"))
}


def trained(method: Any, env: str, steps: int, seeds: Sequence[int], **options: Any) -> list[Agent]:
    """The agents of a method, one a seed."""
    learner = make_learner(method, env, list(seeds), steps, **options)
    try:
        while learner.steps < steps:
            learner.iterate()
        return [learner.agent(index) for index in range(len(seeds))]
    finally:
        learner.close()


def smoothed(agent: Agent, by: str, sigma: float, draws: int = 50) -> Agent:
    """An agent that decides by noisy draws at test time only, without a denoiser."""
    facts = {"smoothed": {"by": by, "sigma": sigma, "draws": draws}}
    return Agent(agent.network, agent.observation_space, agent.action_space, agent.vector, agent.scales, facts)


def poles(arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Mean returns without an attack and under each."""
    if arm == "noisy DQN":
        method = DQN(**BASE)
        agents = trained(method, POLES, 120_000, seeds, perturb=f"observation-noise:{DEVIATION:g}")
        agents = [smoothed(agent, "vote", DEVIATION) for agent in agents]
    else:
        agents = trained(DENOISED.get(arm, DENOISED["S-DQN"]), POLES, 120_000, seeds)
    if arm in ("DQN", "DQN, smoothed at test"):
        facts = [smoothed(agent, "vote", DEVIATION) for agent in agents]
        plain = [Agent(a.network, a.observation_space, a.action_space, a.vector, a.scales) for a in agents]
        agents = plain if arm == "DQN" else facts
    tried = {"clean": None} | ({} if arm == "DQN" else ATTACKS)
    return {
        name: [float(returns(agent, POLES, PLAYED, seed, attack).mean()) for agent, seed in zip(agents, seeds)]
        for name, attack in tried.items()
    }


def of_poles(found: Measurements) -> Summary:
    series = {f"{arm}, {name}": np.array(values) for arm, one in found.items() for name, values in one.items()}
    worst = {arm: np.min([series[f"{arm}, {name}"] for name in ATTACKS], axis=0) for arm in found if arm != "DQN"}
    series |= {f"{arm}, strongest attack": values for arm, values in worst.items()}
    series["S-DQN / DQN, clean"] = series["S-DQN, clean"] / series["DQN, clean"]
    series["S-PGD at least as strong"] = (series["S-DQN, S-PGD, σ/2"] <= series["S-DQN, PGD, σ/2"] + 1).astype(float)
    return series


# --- Pendulum and Hopper: PPO for a median ---------------------------------------------------------------------------

SWING: dict[str, Any] = {"gamma": 0.9, "learning_rate": 1e-3}
HOP: dict[str, Any] = {"num_envs": 1, "num_steps": 2048, "minibatch_size": 64}  # 32 minibatches, 976 iterations
PPOS: dict[str, dict[str, Any]] = {
    "Pendulum-v1": {"PPO": PPO(**SWING), "S-PPO": SmoothedPPO(**SWING, sigma=0.3, draws=8)},
    "Hopper-v5": {
        "PPO": PPO(**HOP),
        "S-PPO": SmoothedPPO(**HOP, sigma=0.2),
        "S-PPO (regularised)": SmoothedPPO(**HOP, sigma=0.2, kappa=1.0),
    },
}
BUDGETS = {"Pendulum-v1": (300_000, 0.3, 50), "Hopper-v5": (976 * 2048, 0.2, 100)}  # steps, σ, draws at test


def medians(env: str, arm: str, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Mean returns of the median policy without an attack and under MAD of 0.075 through its noise, and the divergence
    of its actions."""
    steps, sigma, draws = BUDGETS[env]
    agents = [smoothed(agent, "median", sigma, draws) for agent in trained(PPOS[env][arm], env, steps, seeds)]
    divergence = [
        certify_actions(a, env, states=100, budgets=(0.1, 0.2, 0.3), seed=s).divergence for a, s in zip(agents, seeds)
    ]
    return {
        "clean": [float(returns(a, env, PLAYED, s).mean()) for a, s in zip(agents, seeds)],
        "attacked": [float(returns(a, env, PLAYED, s, "obs-mad:0.075,draws=1").mean()) for a, s in zip(agents, seeds)],
        "divergence": [float(x or 0.0) for x in divergence],
    }


def of_medians(found: Measurements) -> Summary:
    return {f"{arm}, {name}": np.array(values) for arm, one in found.items() for name, values in one.items()}
