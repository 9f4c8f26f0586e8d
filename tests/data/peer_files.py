"""Files of data sets as other libraries read and write them. Runs in the Python of the library that is named.

    python peer_files.py LAYOUT read FILE OUT.npz      transitions as the library gives them
    python peer_files.py LAYOUT write IN.npz FILE      the library's own file of transitions

Transitions are exchanged as arrays: observation, action, reward, next_observation, terminated, truncated.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
READ = ("observation", "action", "reward", "next_observation", "terminated")


def episodes(given: Arrays) -> list[Arrays]:
    """The arrays of each episode."""
    last = np.flatnonzero(given["terminated"] | given["truncated"])[:-1] + 1
    parts = {name: np.split(x, last) for name, x in given.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(last) + 1)]


def columns(rows: list[tuple[Any, ...]]) -> Arrays:
    """Rows of what READ names, as arrays."""
    return {name: np.array(x) for name, x in zip(READ, zip(*rows, strict=True), strict=True)}


# --- d3rlpy ----------------------------------------------------------------------------------------------------------


def picked(found: Any) -> Arrays:
    """Every transition that its picker makes of episodes."""
    from d3rlpy.dataset import BasicTransitionPicker

    pick = BasicTransitionPicker()
    steps = [pick(one, index) for one in found for index in range(one.transition_count)]
    return columns([(x.observation, x.action, x.reward[0], x.next_observation, bool(x.terminal)) for x in steps])


def read_d3rlpy(path: str) -> Arrays:
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

    with open(path, "rb") as file:
        return picked(ReplayBuffer.load(file, InfiniteBuffer()).episodes)


def write_d3rlpy(given: Arrays, path: str) -> None:
    """A replay buffer filled step by step, as its training loop does."""
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer, Signature

    discrete = given["action"].ndim == 1
    buffer = ReplayBuffer(
        InfiniteBuffer(),
        observation_signature=Signature([given["observation"].dtype], [given["observation"].shape[1:]]),
        action_signature=Signature([given["action"].dtype], [(1,) if discrete else given["action"].shape[1:]]),
        reward_signature=Signature([np.dtype(np.float32)], [(1,)]),
        action_space=ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS,
        action_size=3 if discrete else given["action"].shape[1],
    )
    for one in episodes(given):
        for observation, action, reward in zip(one["observation"], one["action"], one["reward"], strict=True):
            buffer.append(observation, action, reward)
        buffer.clip_episode(bool(one["terminated"][-1]))
    with open(path, "w+b") as file:
        buffer.dump(file)


def read_d3rlpy1(path: str) -> Arrays:
    from d3rlpy.dataset.io import load_v1

    with open(path, "rb") as file:
        return picked(load_v1(file))


def write_d3rlpy1(given: Arrays, path: str) -> None:
    """The flat layout of version 1, which today's d3rlpy reads but no longer writes."""
    import h5py

    names = {"observation": "observations", "action": "actions", "reward": "rewards", "terminated": "terminals"}
    with h5py.File(path, "w") as file:
        for mine, theirs in names.items():
            file[theirs] = given[mine].astype(np.float32) if mine == "terminated" else given[mine]
        file["episode_terminals"] = (given["terminated"] | given["truncated"]).astype(np.float32)
        file["discrete_action"], file["version"] = given["action"].ndim == 1, "1.0"


# --- Minari ----------------------------------------------------------------------------------------------------------


def read_minari(path: str) -> Arrays:
    from minari import MinariDataset

    rows = []
    for one in MinariDataset(f"{path}/data").iterate_episodes():
        steps = one.observations[:-1], one.actions, one.rewards, one.observations[1:], one.terminations
        rows += [*zip(*steps, strict=True)]
    return columns(rows)


def write_minari(given: Arrays, path: str) -> None:
    """Its collector around an environment that makes the transitions, into $MINARI_DATASETS_PATH."""
    import gymnasium as gym
    from minari import DataCollector

    class Replayed(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, given["observation"].shape[1:])
        action_space = gym.spaces.Discrete(3) if given["action"].ndim == 1 else gym.spaces.Box(-2, 2, (2,))
        row = 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return given["observation"][self.row % len(given["reward"])], {}

        def step(self, action: Any) -> Any:
            self.row += 1
            one = {name: x[self.row - 1] for name, x in given.items()}
            assert (one["action"] == action).all()
            ends = bool(one["terminated"]), bool(one["truncated"])
            return one["next_observation"], float(one["reward"]), *ends, {}

    env = DataCollector(Replayed())
    for one in episodes(given):
        env.reset(seed=0)
        for action in one["action"]:
            env.step(action)
    env.create_dataset("/".join(path.split("/")[-2:]))


# --- OGBench ---------------------------------------------------------------------------------------------------------


def read_ogbench(path: str) -> Arrays:
    """The regular form of a data set; the compact one must agree with it."""
    from ogbench import load_dataset

    kind = np.int64 if np.load(path)["actions"].dtype.kind == "i" else np.float32
    found = load_dataset(path, action_dtype=kind)
    compact = load_dataset(path, action_dtype=kind, compact_dataset=True)
    valid = np.flatnonzero(compact["valids"])
    assert (compact["observations"][valid] == found["observations"]).all()
    assert (compact["observations"][valid + 1] == found["next_observations"]).all()
    assert (compact["terminals"][valid] == found["terminals"]).all()
    names = {"observation": "observations", "action": "actions", "next_observation": "next_observations"}
    return {mine: found[theirs] for mine, theirs in names.items()} | {"ended": found["terminals"] > 0}


def write_ogbench(given: Arrays, path: str) -> None:
    """What its scripts of generation keep: compressed states, void last actions, whose rows are the terminals."""
    found: dict[str, list[np.ndarray]] = {"observations": [], "actions": [], "terminals": [], "qpos": []}
    for one in episodes(given):
        found["observations"] += [one["observation"], one["next_observation"][-1:]]
        found["actions"] += [one["action"], one["action"][-1:]]
        found["terminals"] += [np.zeros(len(one["reward"]), bool), np.ones(1, bool)]
        found["qpos"] += [np.zeros((len(one["reward"]) + 1, 2), np.float32)]
    with open(path, "wb") as file:
        np.savez_compressed(file, **{name: np.concatenate(x) for name, x in found.items()})


# --- robomimic -------------------------------------------------------------------------------------------------------


def read_robomimic(path: str) -> Arrays:
    """Every row of its data set of sequences of length 1."""
    import h5py
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    with h5py.File(path) as file:
        keys = sorted(file["data/demo_0/obs"])
        following = "next_obs" in file["data/demo_0"]
        json.loads(file["data"].attrs["env_args"])
        assert all(len(one["actions"]) == one.attrs["num_samples"] for one in file["data"].values())
        assert file["data"].attrs["total"] == sum(one.attrs["num_samples"] for one in file["data"].values())
    obs_utils.initialize_obs_modality_mapping_from_dict({"low_dim": keys})
    found = SequenceDataset(
        path, keys, ("actions", "rewards", "dones"), hdf5_cache_mode="low_dim", load_next_obs=following
    )
    ended = np.array([found.get_item(i)["dones"] for i in range(len(found))]).reshape(-1) > 0

    def joined(part: str, i: int) -> np.ndarray:
        return np.concatenate([np.asarray(found[i][part][key]).reshape(-1) for key in keys])

    def after(i: int) -> np.ndarray:
        return joined("next_obs", i) if following else joined("obs", min(i + 1, len(found) - 1))

    steps = [(i, found[i]) for i in range(len(found))]
    return columns(
        [(joined("obs", i), x["actions"][0], np.reshape(x["rewards"], -1)[0], after(i), ended[i]) for i, x in steps]
    )


def write_robomimic(given: Arrays, path: str, following: bool = True) -> None:
    """What its `dataset_states_to_obs.py` keeps: several observations by name, compressed, beside states and masks."""
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for number, one in enumerate(episodes(given)):
            demo, steps = data.create_group(f"demo_{number}"), len(one["reward"])
            demo.attrs["num_samples"], demo.attrs["model_file"] = steps, "<mujoco/>"
            demo["actions"], demo["rewards"] = one["action"].astype(np.float64), one["reward"].astype(np.float64)
            demo["states"], demo["dones"] = np.zeros((steps, 5)), one["terminated"].astype(np.int64)
            for part, column in {"obs": "observation", "next_obs": "next_observation"}.items():
                if following or part == "obs":
                    demo.create_dataset(f"{part}/eef", data=one[column][:, :2], compression="gzip")
                    demo.create_dataset(f"{part}/object", data=one[column][:, 2:], compression="gzip")
        data.attrs["total"] = len(given["reward"])
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})
        file["mask/train"] = np.array([b"demo_0"])


def write_robomimic_short(given: Arrays, path: str) -> None:
    """Without next observations, as `--exclude-next-obs` leaves them out."""
    write_robomimic(given, path, following=False)


read_robomimic_short = read_robomimic

if __name__ == "__main__":
    layout, action, source, target = sys.argv[1:]
    if action == "read":
        np.savez(target, **globals()[f"read_{layout}"](source))
    else:
        with np.load(source) as file:
            globals()[f"write_{layout}"]({name: file[name] for name in file.files}, target)
