"""vLLM as an engine: in this process, on this process's GPU, given the model's weights before each generation.

Written against the offline interface of vLLM 0.22 to 0.31: `LLM.generate` on tokens, `load_weights` of its model in
this process, `reset_prefix_cache`. In every step the engine's likelihoods of its tokens are compared with the model's,
and a run in which they disagree stops at once. Nothing here could be tested without a GPU.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.models.language.generation import WHOLE, Completions
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.room import check_room
from surefoot.models.language.sampling import Sampling

OLDEST, NEWEST = (0, 22), (0, 31)
MEMORY = 0.3  # share of the GPU's memory for its weights and cache; the rest is for training
INSTEAD = "use engine='own' or engine='transformers'"


class VLLM:
    """The engine; vLLM itself is started at the first generation, with the architecture of the given model."""

    def __init__(self) -> None:
        """
        Raises:
            UsageError: vLLM or a GPU is missing, or vLLM's version is not supported.
        """
        try:
            self.vllm = import_module("vllm")
        except ImportError as error:
            raise UsageError(
                f"engine='vllm' needs vLLM, which is not installed: pip install vllm, or {INSTEAD}."
            ) from error
        found = tuple(map(int, re.findall(r"\d+", self.vllm.__version__)[:2]))
        if not OLDEST <= found <= NEWEST:
            low, high = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
            raise UsageError(
                f"engine='vllm' supports vLLM {low} to {high}, but {self.vllm.__version__} is installed: pip install "
                f"'vllm>={low},<={high}.*', or {INSTEAD}."
            )
        if not torch.cuda.is_available():
            raise UsageError(f"engine='vllm' needs a GPU, and torch finds none here; {INSTEAD}.")
        self.llm: Any = None
        self.folder = tempfile.TemporaryDirectory()  # with the model's configuration, which vLLM may read later

    def __call__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        uniform: Float[Tensor, "prompts samples tokens"],
        *,
        temperature: float,
        stop: Sequence[str] = (),
        sampling: Sampling = WHOLE,
    ) -> Completions:
        """Completions with the model's current weights. Every sample has its own seed, from `uniform`; it may still
        depend on the others in its batch through rounding. A group's prompt is read once and then taken from the
        cache."""
        samples, limit = uniform.shape[1:]
        check_room(model, prompts, limit)
        self.llm = self.llm or self._start(model)
        self.llm.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(weights(model))
        self.llm.reset_prefix_cache()  # it holds the keys and values of earlier weights
        settings = {"temperature": temperature, "max_tokens": limit, "logprobs": 0, "stop": list(stop)}
        settings |= sampling.named()
        settings["skip_special_tokens"] = False  # a stop string may be a special token
        settings |= {"ignore_eos": True, "stop_token_ids": model.ends}  # the same ends as everywhere here
        seeds = (uniform[..., 0].flatten().double() * 2**31).long().tolist()
        rows = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(samples)],
            [self.vllm.SamplingParams(seed=seed, **settings) for seed in seeds],
            use_tqdm=False,
        )
        written = [row.outputs[0] for row in rows]
        if broken := [one.finish_reason for one in written if one.finish_reason not in ("stop", "length")]:
            raise UsageError(
                f"engine='vllm' failed to generate {len(broken)} of {len(written)} completions ({broken[0]}); fewer "
                f"prompts or max_tokens need less memory, or {INSTEAD}."
            )
        return Completions(
            [list(one.token_ids) for one in written],
            [[place[token].logprob for token, place in zip(one.token_ids, one.logprobs)] for one in written],
            [one.finish_reason == "stop" for one in written],
        )

    def _start(self, model: LanguageModel) -> Any:
        """vLLM with a model of this architecture; its weights are transferred before generation."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
            alone["MASTER_PORT"] = str(free.getsockname()[1])
        for name, value in alone.items():  # if torchrun has not set it
            os.environ.setdefault(name, value)
        config = deepcopy(model.base.config)
        config.architectures = [type(model.base).__name__]
        config.save_pretrained(self.folder.name)
        model.tokenizer.save_pretrained(self.folder.name)
        return self.vllm.LLM(
            model=self.folder.name,
            load_format="dummy",
            dtype=str(model.head()[0].dtype).removeprefix("torch."),
            distributed_executor_backend="external_launcher",  # in this process, or one in each of several
            logprobs_mode="processed_logprobs",  # of the sampled distribution, after the temperature
            gpu_memory_utilization=MEMORY,
        )


@torch.no_grad()
def weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """All weights under their names in transformers' files; an adapter's are merged into those that it adapts."""
    for name, weight in model.base.named_parameters():
        layer, adapted, kind = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if adapted and kind == "weight":
            adapter = model.base.get_submodule(layer)
            weight = weight + sum(adapter.get_delta_weight(active) for active in adapter.active_adapters)
        yield f"{layer}.{kind}" if adapted else name, weight.detach()
