"""The command `surefoot stress`: a policy across a sweep of perturbations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from surefoot.errors import printable


def stress(
    run: Annotated[Path, arg(metavar="RUN")],
    /,
    perturb: str = "rrls:2d",
    episodes: int = 10,
    points: int = 10,
    grid: Literal["closed", "rrls"] = "closed",
    seed: int = 0,
    attack_budget: int | None = None,
    env: str | None = None,
    algo: str | None = None,
    trust: bool = False,
    video: bool = False,
    on: str = "",
    data: str | None = None,
) -> None:
    """Play the agent of RUN across a sweep of perturbations; worst, mean, CVaR and nominal returns.

    Args:
        run: Folder of a run or of an agent, hf:user/name, or a policy of another library, with --env: model.zip of
            Stable-Baselines3, policy.onnx, policy.pt, WEIGHTS@module:Class, module:function.
        perturb: rrls:1d|2d|3d|rarl on the six robust MuJoCo tasks (also rrls:2d,friction_mode=all_geoms and
            rrls:rarl,force_axes=xz), or any perturbation with a range, such as observation-noise:0..0.3,
            action-delay:0..4 or param:gravity=5..15; for MuJoCo also such as param:mass=0.5..2,torso.mass=1..5; or an
            attack on what the policy sees, obs-fgsm, obs-pgd, obs-mad, obs-critic, obs-search or obs-random, such as
            obs-pgd:0.05. For a run that learned from pairs: label-flip:0..0.4, whose model is trained again on ever
            more wrong labels, and group-shift, under which the group that it serves worst becomes more. For
            models of tables: input-pgd:0.1 or input-search:0.1. Several, separated by commas, are tested one after
            another.
        episodes: Episodes per cell of the grid.
        points: Values per dimension of the grid.
        grid: closed includes both bounds; rrls is the published half-open grid.
        seed: Random seed of the episodes; every cell uses the same ones.
        attack_budget: Steps, such as 200k, for which an adversary is trained to make the random choices of force:3,
            action-mix:0.1, action-random:0.1, rrls:2d and the like, or the changes of obs-sa-rl:0.05 and
            obs-pa-ad:0.05, against the frozen policy; it is kept beside the policy, and used again.
        env: Environment, if not the one it was trained in.
        algo: Algorithm of a Stable-Baselines3 model file, such as ppo.
        trust: Import and call what RUN names as module:name, and unpickle a model file, which can run any code.
        video: Film one episode undisturbed and in the worst cell, for the report.
        data: Rows to attack, if not those of the run: a file or sklearn:NAME.
        on: Where to compute: ray for a Ray cluster on this machine, ray:ADDRESS for another; else in this process.
    """
    from surefoot import api
    from surefoot.perturbations import several

    settings: Any = {"episodes": episodes, "points": points, "grid": grid, "seed": seed, "algo": algo, "trust": trust}
    settings |= {"video": video, "on": on}
    for place, text in enumerate(several(perturb)):
        if place:
            print()
        if data is not None or text.startswith("input-"):
            print(printable(api.stress(run, perturb=text, data=data, points=points, seed=seed, trust=trust).table()))
            continue
        if attack_budget is None:
            print(printable(api.stress(run, env, text, **settings).table()))
        else:
            _stress_trained(run, env, text, attack_budget, settings)


def _stress_trained(run: Path, env: str | None, text: str, budget: int, settings: dict[str, Any]) -> None:
    """One perturbation in the hands of an adversary, if it can be; the report lies beside that."""
    from surefoot import api
    from surefoot.evaluate import adversary
    from surefoot.evaluate.periodic import keep, result_file
    from surefoot.evaluate.player import player_of

    player, place, _ = player_of(run, env, settings["algo"], settings["trust"])
    folder = adversary.beside(run)
    attack = adversary.trained(player, place, text, budget, folder, kept=adversary.fingerprint(run))
    report = api.stress(run, env, attack, **settings)
    print(printable(report.table()))
    if "adversary=" in str(attack):
        folder.mkdir(parents=True, exist_ok=True)
        keep(result_file(folder, f"stress-{text}-{budget}"), report.to_json())
        print(f"\n{adversary.exploitability(report)}\nadversary and report: {folder}")
