"""Policies to play and their environments: agents, run folders, files of other libraries, and any other policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surefoot.envs.names import remember
from surefoot.errors import UsageError
from surefoot.evaluate.hub import local
from surefoot.evaluate.outside import outside
from surefoot.evaluate.tables import refuse
from surefoot.loops.common.kinds import check_trust, loop
from surefoot.loops.common.run import Run
from surefoot.models.saved import KINDS, holds_agent, load_agent, read_facts


def load(path: str | Path | Run, seed: int | None = None, best: bool = False) -> Any:
    """The agent of a run or of its folder (of one of its seeds; the best one by evaluation, of a run with
    `keep_best`), of an agent's folder, or the hub (hf:user/name)."""
    folder = path.path if isinstance(path, Run) else Path(local(path))
    return load_agent(folder) if holds_agent(folder) else Run(folder).agent(seed, best)


def player_of(policy: Any, env: Any, algo: str | None = None, trust: bool = False) -> tuple[Any, Any, Path | None]:
    """A policy, the environment to play in, and the run folder if one was given."""
    if env is not None:
        remember(env)
    policy = policy.path if isinstance(policy, Run) else policy
    policy = local(policy) if isinstance(policy, (str, Path)) else policy
    if isinstance(policy, (str, Path)) and (found := outside(policy, env, algo, trust)) is not None:
        return (*found, None)
    if algo is not None:
        raise UsageError(f"algo={algo!r} is for the file of a Stable-Baselines3 model; {policy!r} is not a file.")
    if not isinstance(policy, (str, Path)):
        if env is None:
            raise UsageError("env is missing; only a run folder has its own environment, other policies need env=.")
        return policy, loop(getattr(policy, "loop", "on-policy")).single(env), None
    if is_reward_model(policy):
        raise UsageError(
            f"{policy} is a reward model, which scores answers and plays nothing: surefoot evaluate {policy}."
        )
    agent, folder = load(policy), Path(policy)
    if env is None and not agent.facts.get("env", {}).get("env"):
        why, more = "does not say what it was trained in", ""
        if "env" in agent.facts:
            why, more = (
                "was trained on data alone",
                f" Without one: surefoot evaluate {folder} --data HELD-OUT.",
            )
        raise UsageError(f"env is missing: the agent in {folder} {why}; give env=… (--env).{more}")
    kind, trained_in = loop(agent.loop), agent.facts["env"] if env is None else {"env": env}
    if env is None:
        check_trust(kind, trained_in, trust)
    return agent, kind.single(**trained_in), None if holds_agent(folder) else folder


def is_reward_model(policy: Any) -> bool:
    """Whether a policy is a reward model, or the folder of one or of its run: it scores answers and plays nothing."""
    policy = policy.path if isinstance(policy, Run) else policy
    if not isinstance(policy, (str, Path)):
        return getattr(policy, "loop", "") == "group-rollout" and hasattr(policy, "scores")
    folder = next((one for one in (Path(policy), Path(policy) / "agent") if holds_agent(one)), None)
    return folder is not None and KINDS.get(str(read_facts(folder).get("format")), ("", ""))[1] == "RewardModel"


def refuse_language(player: Any, argument: str, instead: str) -> None:
    """Raise `UsageError` for a language model or a model of tables, which `argument` does not apply to."""
    refuse(player, argument)
    if getattr(player, "loop", "") == "group-rollout":
        raise UsageError(f"{argument} is not allowed for a language model: {instead}.")
