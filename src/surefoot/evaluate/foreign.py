"""Models of Stable-Baselines3 and sb3-contrib as policies, with their observation processing.

A model in memory knows the environment that it was trained in. Whatever its vector wrappers do to observations is
repeated here: normalisation (`VecNormalize`), stacked frames, transposed images, selected entries of a Dict. Masks of
allowed actions (`MaskablePPO`) come from the environment's `action_masks()`; recurrent states are passed on.

A saved model (`model.zip`) is read without unpickling: its weights are tensors, its policy is one of the library's own
classes, and its spaces are those of the environment. A warning names what the file does not contain.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
import zipfile
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.envs import make_single, wrap
from surefoot.errors import UsageError, nearest
from surefoot.evaluate import foreign_tensors as tensors
from surefoot.evaluate.foreign_modules import ModulePolicy
from surefoot.models.spaces import MASK_KEY

LIBRARIES = ("stable_baselines3", "sb3_contrib")
SILENT = {"VecMonitor", "VecCheckNan", "VecVideoRecorder"}  # vector wrappers that leave observations alone
PLAIN = {"Monitor", "OrderEnforcing", "PassiveEnvChecker", "TimeLimit", "RecordEpisodeStatistics", "RecordVideo"}
STATISTICS = ("vecnormalize.pkl", "vec_normalize.pkl")  # files usually saved beside a model
UNKNOWN = (
    "was loaded without its environment, so it is unknown whether its observations were normalised (VecNormalize) "
    "or stacked (VecFrameStack) in training; it gets the environment's raw observations. If they were, load it with "
    "env=VecNormalize.load(statistics, venv), or call model.set_env, and give the model itself."
)


@dataclass(frozen=True)
class SB3Policy:
    """A model or policy of Stable-Baselines3 in the environment at hand.

    `wrappers` are the vector wrappers of its training environment that change observations, innermost first.
    """

    model: Any
    observation_space: spaces.Space  # space of the environment, before `wrappers`
    action_space: spaces.Space
    wrappers: tuple[Any, ...] = ()
    masked: bool = (
        False  # whether observations contain a mask of the allowed actions that is not an entry the model reads
    )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions `[batch, ...]` and the new state: stacked frames and the model's own state."""
        seen, frames, inner = self._processed(tree_map(torch.as_tensor, observation), state, episode_start)
        masks = {"action_masks": observation[MASK_KEY].astype(bool)} if self.masked else {}
        action, inner = self.model.predict(
            tree_map(Tensor.numpy, seen), state=inner, episode_start=episode_start, deterministic=deterministic, **masks
        )
        return action, (frames, inner)

    @property
    def deviations(self) -> dict[str, np.ndarray]:
        """The standard deviations by which its wrappers divide entries of an observation, by key."""
        found = tensors.deviations(self.wrappers)
        return {"observation" if self.masked and not key else key: x for key, x in found.items()}

    def respond(self, observation: Any, state: Any = None, episode_start: Any = None) -> tuple[Any, Tensor]:
        """The distribution of actions and its parameters `[batch, size]`, differentiable by the observation."""
        seen, _, inner = self._processed(observation, state, episode_start)
        return tensors.respond(self.model, seen, inner, episode_start, observation[MASK_KEY] if self.masked else None)

    def criticise(self, observation: Any, seen: Any, state: Any, episode_start: Any) -> Tensor:
        """The value `[batch]`, by the model's critic, of acting on what is `seen` instead of the observation."""
        ours, theirs = (self._processed(x, state, episode_start)[0] for x in (observation, seen))
        return tensors.criticise(self.model, ours, theirs)

    def _processed(self, observation: Any, state: Any, starts: np.ndarray | None) -> tuple[Any, tuple[Any, ...], Any]:
        """A batch of tensors after the wrappers, the frames that each keeps, and the model's own state."""
        frames, inner = state if state is not None else ((None,) * len(self.wrappers), None)
        seen, kept = observation["observation"] if self.masked else observation, []
        for wrapper, held in zip(self.wrappers, frames, strict=True):
            seen, held = tensors.through(wrapper, seen, held, starts)
            kept.append(held)
        return seen, tuple(kept), inner

    def view(self, env: gymnasium.Env) -> gymnasium.Env:
        """The environment as this policy needs it: with the allowed actions, if it uses them."""
        return wrap(env, ["action_mask"]) if self.masked and not _has_mask(env) else env


def as_policy(thing: Any, env: gymnasium.Env) -> Any:
    """The policy for `env`: an `SB3Policy` for a Stable-Baselines3 model, a `ModulePolicy` for a PyTorch module that
    cannot act itself, anything else unchanged.

    Warns if the model does not say how its observations were processed in training.
    """
    if _is_silent_module(thing):
        return ModulePolicy(thing, env.observation_space, env.action_space)
    if isinstance(thing, SB3Policy) or not _of_library(thing):
        return thing
    name = type(thing).__name__
    venv: Any = getattr(thing, "env", None)
    masked = _takes_masks(thing)
    if masked and not (_has_mask(env) or env.has_wrapper_attr("action_masks")):
        warnings.warn(f"{name} plays without masks: the environment has no method action_masks().", stacklevel=3)
        masked = False
    if venv is None:
        warnings.warn(f"This {name} {UNKNOWN}", stacklevel=3)
        return SB3Policy(thing, _seen(thing.observation_space, env, masked), thing.action_space, (), masked)
    from stable_baselines3.common import vec_env as kinds

    wrappers, changing = [], (kinds.VecNormalize, kinds.VecFrameStack, kinds.VecTransposeImage, kinds.VecExtractDictObs)
    while isinstance(venv, kinds.VecEnvWrapper):  # outermost first
        if isinstance(venv, changing):
            wrappers.append(venv)
        elif type(venv).__name__ not in SILENT:
            warnings.warn(
                f"{name} was trained inside {type(venv).__name__}, which is not known here: its effect on "
                "observations and actions is ignored.",
                stacklevel=3,
            )
        venv = venv.venv
    _compare_wrappers(name, venv, env)
    space = _seen(venv.observation_space, env, masked)
    return SB3Policy(thing, space, thing.action_space, tuple(reversed(wrappers)), masked)


def load_zip(path: Path, env: Any, algo: str | None = None, trust: bool = False) -> Any:
    """The policy in a file that `model.save` of Stable-Baselines3 wrote, for `env`: an id or a factory.

    `algo` is its algorithm, such as "ppo". The file is read as data. `trust=True` unpickles its contents and the
    statistics beside it (`vecnormalize.pkl`), which runs whatever code they hold; it needs `algo`.
    Raises `UsageError` for a damaged file, another environment's model, or one that can only be unpickled.
    """
    if env is None:
        raise UsageError(f"env is missing: {path} does not say what it was trained in; give env=.")
    statistics = next((path.with_name(name) for name in STATISTICS if path.with_name(name).exists()), None)
    if trust:
        return _unpickled(path, env, _algorithm(algo, path), statistics)
    if statistics is not None:
        raise UsageError(
            f"{statistics} beside {path.name} says that its observations were normalised in training. It is a pickle, "
            "which can run any code when it is read: give trust=True (--trust) if you know where it comes from, or "
            "load the model in Python with its VecNormalize and give the model itself."
        )
    data, weights = _contents(path)
    single = make_single(env)
    try:
        space, action = _without_mask(single.observation_space), single.action_space
        inner = _channels_first(space)
        for name, recorded, ours in (
            ("observation_space", data.get("observation_space"), inner),
            ("action_space", data.get("action_space"), action),
        ):
            _check_space(path, name, recorded, ours)
        policy = _policy(path, data, inner, action, algo)
        try:
            policy.load_state_dict(weights)
        except (RuntimeError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path}: its weights do not fit {type(policy).__name__} in env={env!r}: {error}. It was trained in "
                "another environment, or with options that the file holds as a pickle; see trust=True (--trust)."
            ) from error
        masked = _takes_masks(policy) and (_has_mask(single) or single.has_wrapper_attr("action_masks"))
        warnings.warn(f"The model in {path} {UNKNOWN}", stacklevel=3)
        return SB3Policy(policy, _seen(space, single, masked), action, (), masked)
    finally:
        single.close()


def recorded(model: Any) -> dict[str, Any]:
    """What a model, or its file, says of its training, by the names of its library; without what is pickled."""
    return _contents(Path(model))[0] if isinstance(model, (str, Path)) else dict(vars(model))


# --- models in memory ------------------------------------------------------------------------------------------------


def _of_library(thing: Any) -> bool:
    ours = any(cls.__module__.partition(".")[0] in LIBRARIES for cls in type(thing).__mro__)
    return ours and callable(getattr(thing, "predict", None)) and hasattr(thing, "observation_space")


def _is_silent_module(thing: Any) -> bool:
    """Whether it is a PyTorch module that returns numbers and has no `predict`."""
    return isinstance(thing, torch.nn.Module) and not callable(getattr(thing, "predict", None))


def _takes_masks(thing: Any) -> bool:
    return "action_masks" in inspect.signature(thing.predict).parameters


def _has_mask(env: gymnasium.Env) -> bool:
    space = env.observation_space
    return isinstance(space, spaces.Dict) and {*space.spaces} == {"observation", MASK_KEY}


def _without_mask(space: spaces.Space) -> spaces.Space:
    masked = isinstance(space, spaces.Dict) and {*space.spaces} == {"observation", MASK_KEY}
    return space["observation"] if masked else space  # type: ignore[index]


def _seen(trained: spaces.Space, env: gymnasium.Env, masked: bool) -> spaces.Space:
    """The required observation space: that of training, images in either order, with a mask if there is one."""
    here = _without_mask(env.observation_space) if masked else env.observation_space
    space = here if trained == _channels_first(here) else trained
    if not masked:
        return space
    return spaces.Dict({"observation": space, MASK_KEY: spaces.MultiBinary(int(getattr(env.action_space, "n", 1)))})


def _channels_first(space: spaces.Space) -> spaces.Space:
    """The space with its images in the channel order of Stable-Baselines3's networks."""
    from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
    from stable_baselines3.common.vec_env import VecTransposeImage

    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(one) for key, one in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


def _compare_wrappers(name: str, venv: Any, env: gymnasium.Env) -> None:
    """Warn about wrappers of the training environment that this environment lacks."""
    trained = getattr(venv, "envs", [None])[0]
    if missing := [w for w in _wrappers(trained) if w not in {*_wrappers(env), *PLAIN}]:
        warnings.warn(
            f"{name} was trained inside {', '.join(missing)}, which this environment does not have; give an "
            "environment with the same wrappers if they change observations or actions.",
            stacklevel=4,
        )


def _wrappers(env: Any) -> list[str]:
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(type(env).__name__)
        env = env.env
    return found


# --- saved models ----------------------------------------------------------------------------------------------------


def _contents(path: Path) -> tuple[dict[str, Any], Any]:
    """The JSON and the weights in a model's file, which its library reads as tensors, without unpickling, since 2.8."""
    try:
        from stable_baselines3.common.save_util import load_from_zip_file
    except ImportError as error:
        raise UsageError(f"{path}: a model of Stable-Baselines3 needs pip install 'stable-baselines3>=2.8'.") from error
    installed = version("stable_baselines3")
    if tuple(map(int, re.findall(r"\d+", installed)[:2])) < (2, 8):
        raise _needs_trust(path, f"so does the installed Stable-Baselines3 {installed} with weights; 2.8 does not")
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
        _, tensors, _ = load_from_zip_file(path, load_data=False, device="cpu")
        weights = tensors["policy"]
        if not isinstance(data, dict) or not isinstance(data.get("policy_class"), dict):
            raise ValueError("its data names no policy class")
    except Exception as error:  # a damaged file may raise anything
        raise UsageError(
            f"{path} cannot be read as a model of Stable-Baselines3 ({type(error).__name__}: {error}). Give the file "
            "that model.save wrote, or load it in Python with its class and give the model itself."
        ) from error
    return data, weights


def _policy(path: Path, data: dict[str, Any], space: spaces.Space, action: spaces.Space, algo: str | None) -> Any:
    """The policy with fresh weights: a class of the library, named in the file."""
    recorded = data["policy_class"]
    named = re.match(r"<function (\w+)\.__init__ at", str(recorded.get("__init__")))
    cls = _known(f"{recorded.get('__module__')}.{named[1]}") if named else None
    if cls is None or not hasattr(cls, "predict"):
        raise _needs_trust(path, f"its policy is a class of its own ({recorded.get('__module__')})")
    if algo is not None and cls not in _algorithm(algo, path).policy_aliases.values():
        raise UsageError(f"algo={algo!r}: {path} holds a {cls.__name__}, which is not a policy of that algorithm.")
    options = dict(data.get("policy_kwargs") or {})
    for name in (":type:", ":serialized:", "optimizer_class", "optimizer_kwargs"):  # not needed for inference
        options.pop(name, None)
    for name, value in options.items():
        if isinstance(value, str) and value.startswith("<"):
            options[name] = _known(value.removeprefix("<class '").removesuffix("'>"))
            if options[name] is None:
                raise _needs_trust(path, f"its policy has {name}={value}")
    if data.get("use_sde") is True:
        options.setdefault("use_sde", True)
    try:
        return cls(space, action, lambda _: 0.0, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UsageError(f"{path}: its {cls.__name__} cannot be made for {space} and {action}: {error}") from error


def _known(name: str) -> Any:
    """A policy or feature extractor of the library, or an activation of PyTorch, by its full name; else None."""
    module, _, attribute = name.rpartition(".")
    own = re.fullmatch(rf"({'|'.join(LIBRARIES)})(\.\w+)*\.(policies|torch_layers)", module)
    if not own and module != "torch.nn.modules.activation":
        return None
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError as error:
        raise UsageError(f"{name} cannot be imported ({error}); pip install {module.partition('.')[0]}.") from error
    return found if isinstance(found, type) and issubclass(found, torch.nn.Module) else None


def _check_space(path: Path, name: str, recorded: Any, ours: spaces.Space) -> None:
    """Raise `UsageError` if the file's description of a space does not fit; bounds count for actions only."""
    recorded = recorded if isinstance(recorded, dict) else {}
    made = str(recorded.get(":type:")).rpartition(".")[2].removesuffix("'>")
    differ = {"type": made} if made not in ("None", type(ours).__name__) else {}
    if isinstance(ours, spaces.Box) and recorded.get("_shape", list(ours.shape)) != list(ours.shape):
        differ["shape"] = recorded["_shape"]
    for key in ("n", "start") if isinstance(ours, spaces.Discrete) else ():
        if str(recorded.get(key, getattr(ours, key))) != str(getattr(ours, key)):
            differ[key] = recorded[key]
    if isinstance(ours, spaces.Box) and name == "action_space":
        for key in ("low", "high"):
            numbers = [float(x) for x in re.findall(r"-?inf|[-+]?[\d.]+(?:e[-+]?\d+)?", str(recorded.get(key)))]
            here = getattr(ours, key).ravel()
            if len(numbers) == len(here) and not np.allclose(numbers, here, rtol=1e-4):
                differ[key] = recorded[key]
    if differ:
        words = ", ".join(f"{key} {value}" for key, value in differ.items())
        raise UsageError(
            f"{path} was made for an {name} of {words}; the environment has {ours}. They must agree. If frames were "
            "stacked or observations flattened in training, the same wrappers are needed here."
        )


def _needs_trust(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} can only be unpickled, which runs whatever code it holds: {why}. Give trust=True (--trust) if you "
        "know where it comes from, or load it in Python with its class and give the model itself."
    )


def _algorithm(algo: str | None, path: Path) -> Any:
    """The class of an algorithm by its name, such as ppo or maskable_ppo."""
    known: dict[str, Any] = {}
    for library in LIBRARIES:
        try:
            members = vars(import_module(library))
        except ImportError:
            continue
        known |= {name.lower(): one for name, one in members.items() if hasattr(one, "policy_aliases")}
    if not known:
        raise UsageError(f"{path} is a model of Stable-Baselines3; reading it needs pip install stable-baselines3.")
    if algo is None:
        raise UsageError(f"algo is missing: say which algorithm saved {path}, such as algo='ppo'.")
    if algo.lower().replace("_", "") not in known:
        raise UsageError(f"algo={algo!r} is not known. {nearest(algo.lower(), known)}")
    return known[algo.lower().replace("_", "")]


def _unpickled(path: Path, env: Any, algorithm: Any, statistics: Path | None) -> Any:
    """The model as its library loads it, with the statistics that lie beside it."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    try:
        if statistics is None:
            return algorithm.load(path, device="cpu")
        venv = VecNormalize.load(str(statistics), DummyVecEnv([lambda: make_single(env)]))
        venv.training = False
        return algorithm.load(path, env=venv, device="cpu")
    except Exception as error:  # its code may raise anything
        raise UsageError(f"{path} cannot be loaded as {algorithm.__name__}: {type(error).__name__}: {error}") from error
