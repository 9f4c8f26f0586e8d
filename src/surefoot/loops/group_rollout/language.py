"""Connecting a run with its language model, its task and its reward."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from surefoot.envs.language import Task, resolve
from surefoot.envs.language.corrupted import of_data, under
from surefoot.envs.language.episodes import Conversations
from surefoot.envs.language.files import LOOKED_AT, Rows, rows
from surefoot.envs.language.prompt_env import PromptEnv
from surefoot.envs.language.task import number
from surefoot.envs.names import check_named
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.loops.common import distributed
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.words import pairs
from surefoot.loops.group_rollout.guard import PATIENCE
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.lengths import check_task
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.loops.group_rollout.named_rewards import MODELS, functions_of, listed, name_of, weights_of
from surefoot.loops.group_rollout.reference_file import kept
from surefoot.loops.group_rollout.rewards import Judged, make_rewards
from surefoot.loops.group_rollout.writing import check_scored
from surefoot.models.device import chosen_device, device_option
from surefoot.models.language.engines import ENGINES
from surefoot.models.language.generation import in_pieces
from surefoot.models.language.loading import check_options, load_model, whole_path
from surefoot.models.language.lora import LoRA, lora_of, with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, nano
from surefoot.models.language.quantized import BITS, OPTIMIZERS, check_quantized
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.states import checkpoint_activations, checkpoints_activations
from surefoot.models.language.text import TextSettings

WARMUP_EXAMPLES = 2**40  # first number of a nano model's warm-up examples, far from those of training
RATES = {"nano": 3e-4, "lora": 1e-5, "all": 1e-6}  # default learning rates
RUNNING = {"trust_remote_code", "attn_implementation", "experts_implementation", "quantization_config", "use_kernels"}
PLAIN_ATTENTION = {"eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"}  # no code from a hub


@dataclass(frozen=True)
class LanguageOptions:
    """The options of a language-model run besides its task and its method."""

    model: Any = hyperparameter(
        "nano", help="Folder or hub id of a causal language model, or nano for a small new one."
    )
    lora: Any = hyperparameter(
        None, help="LoRA rank, or settings such as rank=16,alpha=32,dropout=0.05; by default all weights are trained."
    )
    dtype: str = hyperparameter("float32", choices=("float32", "bfloat16", "float16"), help="Data type of the weights.")
    device: str = device_option("auto")
    load_in_4bit: bool = hyperparameter(False, help="Quantise the base of an adapter to 4 bits (by bitsandbytes).")
    load_in_8bit: bool = hyperparameter(False, help="Quantise the base of an adapter to 8 bits (by bitsandbytes).")
    optimizer: str = hyperparameter(
        "adamw", choices=OPTIMIZERS, help="AdamW, or AdamW whose moments are 8-bit numbers (by bitsandbytes)."
    )
    gradient_checkpointing: bool = hyperparameter(
        False, help="Recompute activations in the backward pass: less memory, more time."
    )
    engine: str = hyperparameter("own", choices=tuple(ENGINES), help="Generation engine.")
    server: str | None = hyperparameter(None, help="URL of a vLLM server, for engine=vllm-server.")
    stop: tuple[str, ...] = hyperparameter((), help="Stop strings: texts that end a completion.")
    sampling: Any = hyperparameter(
        None,
        help="Truncation of the distribution that tokens are drawn from, such as top_p=0.95,top_k=50; also min_p and "
        "repetition_penalty. By default none.",
    )
    generation_batch: int | None = hyperparameter(
        None, low=1, help="Completions generated at a time; by default all of a step."
    )
    skip_special_tokens: bool = hyperparameter(
        False,
        help="Remove all special tokens from texts for reward functions; if not, only those that begin, end or pad.",
    )
    sharding: str = hyperparameter("none", choices=("none", "full"), help="Shard the weights over several processes.")
    nano_warmup: int = hyperparameter(
        400, low=0, help="Supervised warm-up steps of a nano model before it learns from rewards."
    )
    patience: int | None = hyperparameter(
        PATIENCE, low=1, help="Stop the run after this many consecutive iterations without any difference in reward."
    )
    reward: Any = hyperparameter(
        None,
        help="Reward functions as module:function, or reward-model:FOLDER, separated by commas (reward-models:FOLDER: "
        "one of each head of an ensemble); by default the task's own verifier.",
    )
    reward_weights: Any = hyperparameter(
        None, help="Weights of the reward functions, such as 1,0.5; by default 1 each."
    )
    judge_time_limit: float | None = hyperparameter(
        None, above=0, help="Seconds that a reward function may take for a batch of completions."
    )
    judge_retries: int = hyperparameter(
        0, low=0, high=10, help="How often a reward function that fails is asked again."
    )
    test_data: Any = hyperparameter(
        None, help="File of prompts for evaluation; by default a held-out tenth of the data."
    )
    corrupt: str | None = hyperparameter(
        None,
        help="What is wrong with the training data: label-flip:0.2 turns a fifth of the pairs; held-out ones stay.",
    )
    reference_cache: str | None = hyperparameter(
        None, help="File that keeps the reference's log-probabilities for other runs of the same model and pairs."
    )
    held_out: str = hyperparameter(
        "random", choices=("random", "last"), help="The tenth of a file's rows that is held out for evaluation."
    )
    log_completions: int = hyperparameter(
        4, low=0, help="Completions per iteration written to completions.jsonl and to the loggers."
    )
    model_options: Any = hyperparameter(
        None, help="Further arguments of from_pretrained, such as revision=main.", words="NAME=VALUE …"
    )
    chat_template_kwargs: Any = hyperparameter(
        None, help="Arguments of the chat template, such as enable_thinking=false.", words="NAME=VALUE …"
    )
    max_turns: int | None = hyperparameter(None, low=1, help="Maximum number of turns per episode, if not the task's.")

    def __post_init__(self) -> None:
        for name in ("model_options", "chat_template_kwargs"):
            object.__setattr__(self, name, pairs(getattr(self, name), name) or None)
        check(self)
        chosen_device(self.device)
        _check_model_options(self.model_options or {})
        TextSettings(self.chat_template_kwargs or {})
        sampling(self.sampling)
        adapter(self.lora)
        check_quantized(self)
        if self.server is not None and self.engine != "vllm-server":
            raise UsageError(f"server={self.server!r} has no effect with engine={self.engine!r}; leave it out.")
        if self.corrupt is not None:
            object.__setattr__(self, "corrupt", str(of_data(self.corrupt)))


def adapter(given: Any) -> LoRA | None:
    """Settings of an adapter from a rank, from settings by name, or from their text.

    Raises:
        UsageError: a name is unknown, or a value is out of range.
    """
    found = _by_name(given) if isinstance(given, str) and "=" in given else given
    return lora_of(number(found) if isinstance(found, str) else found)


def _by_name(text: str) -> dict[str, Any]:
    """Settings from a text such as `top_p=0.95,top_k=50`."""
    pairs = [part.partition("=") for part in text.split(",")]
    return {name.strip(): number(value) for name, _, value in pairs}


def sampling(given: Any) -> Sampling:
    """Settings of sampling from a dictionary, or from a text such as `top_p=0.95,top_k=50`.

    Raises:
        UsageError: a name is unknown, or a value is out of range.
    """
    given = _by_name(given) if isinstance(given, str) else given
    if isinstance(given, Sampling):
        return given
    if not isinstance(given, Mapping | None):
        raise UsageError(f"sampling={given!r} is not allowed; give settings by name, such as dict(top_p=0.95).")
    return build(Sampling, given or {})


def _check_model_options(options: Any) -> None:
    """Raise `UsageError` for options of a model that are not allowed, or that `config.json` cannot or must not
    contain."""
    check_options(options)
    if "token" in options:
        raise UsageError(
            "model_options has a token, which anyone could read in the run's config.json; put it into the environment "
            "variable HF_TOKEN."
        )
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"model_options={options!r} is not allowed: it cannot be stored in the run's config.json ({error}). Give "
            "texts, numbers and booleans, or a LanguageModel that you made with such options."
        ) from error


def make_model(model: Any, task: Any, options: LanguageOptions, seed: int) -> tuple[LanguageModel, float]:
    """The model, and its default learning rate."""
    lora = adapter(options.lora)
    if isinstance(model, LanguageModel):
        made = deepcopy(model)  # another run may start from the same model
        made.network = made.network if lora is None else with_lora(made.network, lora, seed)
        kind = "lora" if made.adapted else "all"
    elif model == "nano":
        kind, size, shown = "nano", Nano(warmup=options.nano_warmup), _demonstrations(task)
        named = str(task) if shown is None or task.size is None else _digested(task, shown, size.warmup * size.batch)
        made = nano(shown, named, size=size, seed=seed)
        made.network = made.network if lora is None else with_lora(made.network, lora, seed)
    elif isinstance(model, str) and model.startswith("<"):
        raise UsageError(
            f"the run was started with a {model[1:-1]} made in Python; give it again: surefoot.resume(run, model=…)."
        )
    elif isinstance(model, (str, Path)):
        kind = "all" if lora is None else "lora"
        settings = {**(options.model_options or {}), **{name: True for name in BITS if getattr(options, name)}}
        made = load_model(model, lora=lora, dtype=options.dtype, seed=seed, device=options.device, **settings)
    else:
        raise UsageError(f"model={model!r} is not allowed; give a folder, a hub id, 'nano' or a LanguageModel.")
    if options.gradient_checkpointing or checkpoints_activations(made.base):
        checkpoint_activations(made.base)
    if options.chat_template_kwargs:
        made.settings = replace(made.settings, chat_template_kwargs=options.chat_template_kwargs)
    if options.skip_special_tokens:
        made.settings = replace(made.settings, skip_special_tokens=True)
    return made.to(options.device).check(), RATES[kind]


def _demonstrations(task: Any) -> Callable[[int], tuple[str, str]] | None:
    if task.example(0).demonstration is None:
        return None

    def example(index: int) -> tuple[str, str]:
        found = task.example((WARMUP_EXAMPLES + index) if task.size is None else index % task.size)
        return found.prompt, found.demonstration or ""

    return example


def _digested(task: Task, example: Callable[[int], tuple[str, str]], count: int) -> str:
    """The name of a finite set with a digest of its first `count` examples, as a file may change."""
    digest = sha256()
    for index in range(min(task.size or 0, count)):
        digest.update(json.dumps(example(index)).encode())
    return f"{task} {digest.hexdigest()}"


def _describe(env: Any, **options: Any) -> dict[str, Any]:
    task, model, test = task_of(env, options), options["model"], options.get("test_data")
    functions, weights = listed(options["reward"]), weights_of(options["reward_weights"])
    options.pop("reference_cache", None)  # checkpoints hold what it has, and a folder must not name a file to write
    return {
        **options,
        "env": whole_path(str(task)) if isinstance(task, Rows) else str(task),
        "test_data": None if test is None else _file_name(test),
        "model": _model_name(model),
        "stop": list(options["stop"]),
        "lora": None if (lora := adapter(options["lora"])) is None else lora.named(),
        "sampling": sampling(options["sampling"]).named(),
        "reward": None if functions is None else [f if isinstance(f, str) else name_of(f) for f in functions],
        "reward_weights": weights,
    }


def _model_name(model: Any) -> str:
    """The name of a model in `config.json`: an absolute path, or a hub id."""
    if not isinstance(model, (str, Path)):
        return f"<{type(model).__name__}>"
    return "nano" if model == "nano" else whole_path(model)


def _file_name(test: Any) -> str:
    """The name of held-out rows in `config.json`."""
    return whole_path(test if isinstance(test, (str, Path)) else str(rows(test)))


def task_of(env: Any, options: Mapping[str, Any]) -> Task:
    """The task of a run with its held-out examples. Runs of older versions, without this option, held out the last
    rows."""
    held_out = options.get("held_out", "last" if "model" in options else "random")
    return resolve(env, test_data=options.get("test_data"), held_out=held_out, max_turns=options.get("max_turns"))


def _check_recorded(
    env: Any, *, reward: Any = None, model_options: Any = None, server: str | None = None, **_: Any
) -> None:
    """Raise `UsageError` for what would be imported, for code of a model, and for a server that would get prompts."""
    if server is not None:
        raise UsageError(
            f"server={server!r} comes from the files of the run, and the run's prompts would be sent there: give "
            "server=… again, or pass trust=True (--trust) if you trust the folder."
        )
    if str(env).startswith("episodes:"):
        check_named(str(env).split(":", 1)[1].split(",")[0], "task")
    for name in [] if reward is None else reward if isinstance(reward, list) else [reward]:
        if not str(name).startswith(MODELS):  # weights, which run no code
            check_named(name, "reward")
    options = dict(model_options or {})
    if options.get("attn_implementation") in PLAIN_ATTENTION:
        del options["attn_implementation"]
    if running := sorted(RUNNING & set(options)):
        raise UsageError(
            f"model_options={model_options!r} comes from the files of the run, and {running[0]} can run code that "
            "comes with a model. Code that only a folder names is not run: give model_options=… again, or pass "
            "trust=True (--trust) if you trust the folder."
        )


def _learner(
    method: GroupRollout,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compile: str = "off",
    log: Path | None = None,
    **options: Any,
) -> LanguageLearner:
    if len(seeds) > 1:
        raise UsageError(
            f"num_seeds={len(seeds)} is not allowed: a run trains one language model; start one run per seed."
        )
    if compile == "on":
        raise UsageError("compile='on' is not allowed: language models are not compiled here.")
    distributed.start()
    given = LanguageOptions(**{**options, "stop": tuple(options.get("stop") or ())})
    task = under(task_of(env, options), given.corrupt, type(method).__name__ if method.compares else None)
    method.check_task(task)
    patience = {"time_limit": given.judge_time_limit, "retries": given.judge_retries}
    rewards = make_rewards(task, functions_of(given.reward, given.device), weights_of(given.reward_weights), **patience)
    engine = ENGINES[given.engine](given.server)
    engine = engine if given.generation_batch is None else in_pieces(engine, given.generation_batch)
    if not method.weighs and len({*rewards.weights}) > 1:
        raise UsageError(
            f"reward_weights={list(rewards.weights)} is not allowed: {type(method).__name__} normalises every reward "
            "function separately and weights all equally; leave reward_weights out."
        )
    if (count := len(rewards.functions) or 1) < method.judged_by:
        raise UsageError(
            f"{type(method).__name__} compares at least {method.judged_by} rewards and has {count}: give several "
            "reward functions, or an ensemble as reward-models:FOLDER or agent.members: each of its heads is one."
        )
    if not method.acts and given.sharding == "full":
        raise UsageError("sharding='full' is not allowed for a reward model, which is saved by one process.")
    method.check_rewards(rewards)
    if method.samples:
        rewards.check()
    elif method.reads:
        check_scored([task.example(i) for i in range(min(task.size or 1, LOOKED_AT))])
    with distributed.first():
        model, rate = make_model(given.model, task, given, seeds[0])
    if isinstance(task, Conversations) and task.schemas:
        known = {**model.settings.chat_template_kwargs, "tools": task.schemas}
        model.settings = replace(model.settings, chat_template_kwargs=known)
    check_task(model, task, method)
    learner = LanguageLearner(
        method,
        model,
        task,
        rewards,
        engine,
        seed=seeds[0],
        total_steps=steps,
        learning_rate=method.learning_rate or rate,
        stop=given.stop,
        sampling=sampling(given.sampling),
        sharding=given.sharding,
        optimizer=given.optimizer,
        patience=given.patience,
        log_completions=given.log_completions,
        run=None if log is None else log.parent,
    )
    return kept(learner, given.reference_cache)


def _single(env: Any, *, reward: Any = None, reward_weights: Any = None, **options: Any) -> Callable[..., Any]:
    task = task_of(env, options)
    if reward is not None or not task.verified:  # evaluated by the rewards it was trained for
        task = Judged(make_rewards(task, functions_of(reward), weights_of(reward_weights)).check())
    return partial(PromptEnv, task)


LOOP = Loop(
    _describe,
    _learner,
    _single,
    measured="iterations",
    env_argument="task",
    env_aliases=("--data",),
    env_help="A task such as arithmetic, reasoning_gym:chain_sum, a file of prompts (.jsonl), or hf:NAME of the hub.",
    options=LanguageOptions,
    many_seeds=False,
    check_recorded=_check_recorded,
)
