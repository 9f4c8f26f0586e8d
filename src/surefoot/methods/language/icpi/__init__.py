"""ICPI: policy iteration in the prompts of a frozen sequence model; nothing is trained.

    Q(s, a) = Σ_t γ^t r̂_t        â_t+1, r̂_t, ŝ_t+1 and the end predicted from examples in the prompt
    a = argmax Q(s, a)            examples of the world: all steps; of the policy: the last c episodes

The model continues lines of experience, and so is both the world and the policy of an imagined episode. The agent acts
greedily on the values of such episodes, which puts a better policy into the examples of the next ones. Use it to study
what a sequence model learns in context, or as a planner without gradients in small worlds. An end is predicted from as
many steps that ended as did not, rewards from all values equally, and everything from steps with the same action.

Ethan Brooks et al., *Large Language Models can Implement Policy Iteration* (2022), arXiv:2210.03821.

Differences: worlds are finite MDPs, whose states and actions are shown as numbers, without the paper's hints in words;
an absorbing state without reward ends an episode. Examples of the policy are the steps of recent episodes in random
order; in the paper they are all of their sub-trajectories. `model="lookup"` copies the target of an equal line, the
paper's control; anything else is the folder or hub id of a causal language model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.language.icpi.imagination import EPISODE, Imagination, absorbing, best, episodes, legal
from surefoot.methods.language.icpi.predictors import Lookup, Predictor
from surefoot.seeding import numpy_stream

LOOKUP = "lookup"


@dataclass(frozen=True)
class ICPI(Tabular):
    """Greedy on the returns of episodes that a sequence model imagines from experience in its prompt."""

    default_steps: ClassVar[int] = 60
    default_env: ClassVar[str | None] = "goal-chain"

    model: str = hyperparameter(LOOKUP, help="lookup, or the folder or hub id of a causal language model.")
    recent: int = hyperparameter(8, low=1, help="c: the last episodes, which are the examples of the policy.")
    min_successes: float = hyperparameter(3, low=0, help="Episodes after which half of the actions are greedy.")
    longest: int = hyperparameter(6, low=0, help="Maximum number of steps of an imagined episode.")
    episode_steps: int = hyperparameter(8, low=1, help="Maximum number of steps of an episode, if the MDP sets none.")
    tries: int = hyperparameter(3, low=1, help="Prompts for a prediction that makes no sense.")
    temperature: float = hyperparameter(0.1, low=0, help="Sampling temperature of a language model.")
    context: int = hyperparameter(2000, low=16, help="Context of a language model in tokens; the last lines fit.")

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        if mdp.stepped:
            raise UsageError(
                f"ICPI cannot learn in {mdp.name!r}: its transitions or rewards change from step to step, which no "
                "prompt says. The built-in MDP goal-chain fits."
            )

    def start(self, mdp: TabularMDP, seed: int) -> State:
        return {"steps": torch.zeros(0, 6, dtype=torch.float64)}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """One episode."""
        rng, steps = numpy_stream(seed, "episode", iteration), state["steps"].cpu().numpy()
        imagined, ended = self.imagination(mdp, steps, rng), absorbing(mdp)
        kernel, rewards = mdp.dense_rows.cpu().numpy(), mdp.expected_reward().cpu().numpy()
        greedy = self.greedy(episodes(steps))
        here, total, guided, rows = int(rng.choice(mdp.states, p=mdp.initial.cpu().numpy())), 0.0, 0, []
        for t in range(mdp.horizon or self.episode_steps):
            led = rng.random() < greedy and imagined.ready()
            action = self.act(mdp, imagined, here) if led else int(rng.choice(legal(mdp, here)))
            there, reward = int(rng.choice(mdp.states, p=kernel[here, action])), float(rewards[here, action])
            rows.append((here, action, reward, ended[there], there, iteration))
            total, guided, here = total + mdp.gamma**t * reward, guided + led, there
            if ended[there]:
                break
        grown = np.concatenate([steps, np.array(rows, dtype=np.float64)])
        metrics = {"return_mean": total, "length": len(rows), "guided": guided / len(rows)}
        return {"steps": torch.from_numpy(grown).to(state["steps"].device)}, metrics

    def greedy(self, episodes: int) -> float:
        """The probability that an action is greedy after some episodes."""
        return float(1 / (1 + np.exp(2 * (self.min_successes - min(self.recent, episodes)))))

    def imagination(self, mdp: TabularMDP, steps: np.ndarray, rng: np.random.Generator) -> Imagination:
        """What the model can predict from these steps."""
        late = np.unique(steps[:, EPISODE])[-self.recent :]
        recent = steps[np.isin(steps[:, EPISODE], late)]
        predictor = predicting(self.model, self.temperature, self.context)
        return Imagination(steps, recent, predictor, rng, mdp.states, mdp.actions, self.tries)

    def act(self, mdp: TabularMDP, imagined: Imagination, state: int) -> int:
        """The action of the highest imagined return; of several one at random."""
        return int(imagined.rng.choice(best(self.values(mdp, imagined, state))))

    def values(self, mdp: TabularMDP, imagined: Imagination, state: int) -> np.ndarray:
        """Q of every action, −∞ if it is not legal."""
        found = np.full(mdp.actions, -np.inf)
        for action in legal(mdp, state):
            anything = lambda: int(imagined.rng.integers(mdp.actions))  # noqa: E731
            found[action] = imagined.value(state, int(action), mdp.gamma, self.longest, anything)
        return found

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        """Evenly among the best actions of every state, by one imagined episode each."""
        steps = state["steps"].cpu().numpy()
        imagined = self.imagination(mdp, steps, numpy_stream(0, "policy", len(steps)))
        found = np.zeros((mdp.states, mdp.actions))
        for here in range(mdp.states):
            among = best(self.values(mdp, imagined, here)) if imagined.ready() else legal(mdp, here)
            found[here, among] = 1 / len(among)
        return torch.from_numpy(found).to(state["steps"].device)

    def objective(self) -> str:
        return (
            "a = argmax_a Q(s, a),   Q(s, a) = Σ_t γ^t r̂_t of an episode that the model imagines\n"
            f"  with the steps of the last {self.recent} episodes as examples of the policy, all steps of the world"
        )

    def steps(self) -> list[str]:
        return [
            f"play an episode; an action is greedy with probability 1/(1 + exp(2·({self.min_successes:g} − n))) after "
            f"n episodes (at most {self.recent}), otherwise random",
            f"greedy: for each action imagine up to {self.longest} steps: whether it ends, the reward, the next state, "
            "the next action; take that of the highest return",
            "append the episode to the experience",
        ]


@cache
def predicting(model: str, temperature: float, context: int) -> Predictor:
    """The predictor of this name; a language model is loaded once."""
    if model == LOOKUP:
        return Lookup()
    from surefoot.methods.language.icpi.continuation import Continuation  # they need transformers; a lookup does not
    from surefoot.models.language.loading import load_model

    return Continuation(load_model(model).check(), temperature, context)


METHOD = ICPI
