"""The command `surefoot certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.errors import UsageError, printable


def certify(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    sigma: float | None = None,
    episodes: int = 1000,
    budgets: tuple[float, ...] = (),
    confidence: float = 0.95,
    at_least: tuple[float, ...] = (),
    lowest: float = 0.0,
    bound: Literal["clopper-pearson", "dkw"] = "clopper-pearson",
    seed: int = 0,
    env: str | None = None,
    algo: str | None = None,
    what: Literal["return", "action"] = "return",
    law: Literal["l2", "linf"] = "l2",
    states: int = 200,
    trust: bool = False,
) -> None:
    """Certify the return of RUN's noisy agent, or its action (--what action), under every attack of a budget.

    The budget bounds the change of all observations of an episode (l2), or of one observation for its action. The
    bounds of actions are those of the network, which hold for certain, or those of votes and medians for agents that
    decide by several noisy draws (smoothed-agents, smoothed-dqn); they are tried under surefoot's attacks.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or a policy of another library, with --env: model.zip of
            Stable-Baselines3, policy.onnx, policy.pt, WEIGHTS@module:Class, module:function.
        sigma: Standard deviation of the noise that is added to every observation before the agent acts, in the units
            of the observations; that of its training if it was trained by policy-smoothing.
        episodes: Number of episodes to play, without an attack.
        budgets: Budgets of the attacker: l2 norms over a whole episode; 0, 1/4, 1/2, 1 and 2 times sigma by default. Of
            actions: norms of the change of one observation, in standard deviations of the policy's normaliser if it
            has one; 0.01, 0.03 and 0.1 by default, or 1/4, 1/2 and 1 times the noise of an agent that adds it.
        confidence: Probability that all bounds hold; of actions, that of a bound by noisy draws in each state.
        at_least: Returns whose probability to be reached is bounded; by default two of the observed quantiles.
        lowest: A value that no return falls below, attacked or not.
        bound: clopper-pearson is tighter near probability 1, dkw in the middle; choose before looking.
        seed: Random seed of the episodes.
        env: Environment, if not the one it was trained in.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        what: return, of whole episodes; or action, in the states of the agent's own episodes.
        law: Norm of the budget of one observation, for --what action: l2 or linf.
        states: Number of states, for --what action.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
    """
    from surefoot.evaluate import certify as certifying
    from surefoot.evaluate.certify_actions import certify_actions

    if what == "action":
        if sigma is not None or algo is not None:
            raise UsageError(
                f"{'sigma' if algo is None else 'algo'} has no effect with what=action: bounds of actions are about an "
                "agent of this library as it acts. Leave it out."
            )
        common: dict[str, Any] = {"budgets": budgets or None, "confidence": confidence, "seed": seed, "trust": trust}
        print(printable(certify_actions(run, env, law=law, states=states, **common).table()))
        return
    found = certifying.certify(
        run,
        env,
        sigma=sigma,
        episodes=episodes,
        budgets=budgets or None,
        confidence=confidence,
        at_least=at_least or None,
        lowest=lowest,
        bound=bound,
        seed=seed,
        algo=algo,
        trust=trust,
    )
    print(printable(found.table()))
