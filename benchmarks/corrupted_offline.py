"""Learning from logs that are wrong, and acting under attack: RIQL against IQL, RORL against SAC-N, on self-made data.

    python benchmarks/corrupted_offline.py --envs Hopper-v5 --data-steps 300000 --steps 100000 --seeds 4
    python benchmarks/corrupted_offline.py --law adversarial        # corruption that deceives SAC-N's critics
    python benchmarks/corrupted_offline.py --envs Pendulum-v1 --data-steps 10000 --steps 5000 --seeds 4    # minutes

The data are all that a SAC did in its first steps. All methods of a task learn from the same rows, in a run of all
seeds side by side, with their defaults; a returned number is the mean of an agent's episodes from fixed random seeds.
Attacks move the normalised observation, on which both policies act. Runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import surefoot as sf
from peer_sb3 import pin, store
from surefoot.data.files import write_dataset
from surefoot.evaluate.statistics import confidence_interval, mean
from surefoot.recording import record

ELEMENTS = ("observation", "action", "reward", "dynamics")
ATTACKS = ("obs-random", "obs-mad", "obs-critic")


def trained(folder: Path, slug: str, given: argparse.Namespace, **options: Any) -> Any:
    """The finished run in a folder, or a new one."""
    run = sf.Run(folder)
    if not (run.started and run.finished):
        run = sf.train(slug, steps=given.steps, num_seeds=given.seeds, run_dir=folder, loggers=(), **options)
    return run


def returns(run: Any, env: str, given: argparse.Namespace, perturb: str | None = None) -> list[float]:
    """The mean return of every seed's agent."""
    agents = [run.agent(seed) for seed in run.config["seeds"]]
    return [sf.evaluate(agent, env, given.episodes, perturb=perturb)["mean"] for agent in agents]


def compared(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The returns of both, and the difference paired by seed with its 95 % interval."""
    gap = np.subtract(ours, theirs)
    return {"robust": ours, "plain": theirs, "gap": float(gap.mean()), "interval": confidence_interval(gap, mean)}


def table(env: str, given: argparse.Namespace) -> dict[str, Any]:
    """Both comparisons in one environment."""
    place = given.folder / env
    data = place / "data.npz"
    if not data.exists():
        place.mkdir(parents=True, exist_ok=True)
        write_dataset(record(env, "medium-replay", given.data_steps), data)
    found: dict[str, Any] = {}
    plain, robust = (trained(place / slug, slug, given, data=data) for slug in ("sac-n", "rorl"))
    for element in ("none", *ELEMENTS):
        corrupt = None
        if element != "none":
            deceived = given.law == "adversarial" and element != "reward"
            law = f",law={given.law}" + f",agent={plain.path}" * deceived
            corrupt = f"{element}:{given.rate},scale={given.scale}{law}"
        name = f"{element}-{given.law}-{given.rate}-{given.scale}"
        runs = [trained(place / f"{slug}-{name}", slug, given, data=data, corrupt=corrupt) for slug in ("riql", "iql")]
        found[f"corrupted {element}"] = compared(*(returns(run, env, given) for run in runs))
        print(env, f"riql − iql, corrupted {element}", found[f"corrupted {element}"], flush=True)
    for attack in (None, *(f"{kind}:{size}" for kind in ATTACKS for size in given.sizes)):
        found[f"attack {attack}"] = compared(*(returns(run, env, given, attack) for run in (robust, plain)))
        print(env, f"rorl − sac-n, attack {attack}", found[f"attack {attack}"], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["Hopper-v5"])
    parser.add_argument("--data-steps", type=int, default=300_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--law", choices=("random", "adversarial"), default="random")
    parser.add_argument("--rate", type=float, default=0.3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--sizes", nargs="+", type=float, default=[0.05, 0.1])
    parser.add_argument("--folder", type=Path, default=Path("runs/corrupted-offline"))
    given = parser.parse_args()
    pin()
    found = {env: table(env, given) for env in given.envs}
    facts = {k: v for k, v in vars(given).items() if k not in ("envs", "folder")}
    store(f"corrupted_offline_{given.law}", {"table": found, **facts})


if __name__ == "__main__":
    main()
