"""deltatau-audit on a model of Stable-Baselines3: the scenarios that `bench_audit.py` has too. Runs in its own
environment, and prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")
SCENARIOS = ["nominal", "speed_5x", "jitter", "delay", "obs_noise"]


def main(path: str, env: str, episodes: int) -> None:
    import gymnasium
    import torch
    from deltatau_audit.adapters.sb3 import SB3Adapter
    from deltatau_audit.auditor import run_robustness_audit

    torch.set_num_threads(1)
    adapter, steps = SB3Adapter.from_path(path, algo="ppo"), 0

    class Counted(gymnasium.Wrapper):
        def step(self, action):
            nonlocal steps
            steps += 1
            return self.env.step(action)

    began, cpu = time.perf_counter(), time.process_time()
    found = run_robustness_audit(
        adapter, lambda: Counted(gymnasium.make(env)), SCENARIOS, n_episodes=episodes, verbose=False, seed=0
    )
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "steps": steps}
    means = {name: found["scenarios"][name]["total_reward_mean"] for name in SCENARIOS}
    print(json.dumps({**took, "means": means}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
