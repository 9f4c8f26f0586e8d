"""A server of vLLM as an engine: it writes on GPUs of its own, with the adapter that learns here.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16 \
        --logprobs-mode processed_logprobs
    surefoot train grpo --model MODEL --lora 16 --engine vllm-server --server http://localhost:8000 …

Before each generation the adapter is saved into a folder, from which the server loads it under a new name; so the
server must read this machine's temporary folder. Every completion is one request with a seed of its own. Written
for the HTTP interface of vLLM 0.22 (`/v1/load_lora_adapter`, `/v1/completions` with `return_token_ids`); in
every step the server's likelihoods of its tokens are compared with the model's. Not run against a real server yet.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError, message_of
from surefoot.models.language.generation import WHOLE, Completions
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.room import check_room
from surefoot.models.language.sampling import Sampling

TOGETHER = 256  # requests that wait for an answer at a time
SECONDS = 600.0  # that an answer may take
SAID = 300  # characters of an answer in a message
START = (
    "start it with: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 16 "
    "--logprobs-mode processed_logprobs"
)


class VLLMServer:
    """The engine; `url` is that of the server, such as http://localhost:8000."""

    def __init__(self, url: str | None) -> None:
        """
        Raises:
            UsageError: there is no URL, or it is not one of a server.
        """
        parts = urlsplit(url or "")
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(
                f"engine='vllm-server' needs server=… with the URL of a server, such as http://localhost:8000, not "
                f"{url!r}; {START}."
            )
        self.url, self.loaded = str(url).rstrip("/"), 0
        self.folder = tempfile.TemporaryDirectory(prefix="surefoot-adapter-")

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
        """Completions with the current adapter.

        Raises:
            UsageError: the model has no adapter, or the server does not answer as it should.
        """
        samples, limit = uniform.shape[1:]
        check_room(model, prompts, limit)
        settings: dict[str, Any] = {"model": self._load(model), "max_tokens": limit, "temperature": temperature}
        # All of them, as the server's defaults are those of the model's generation_config.
        settings |= {**asdict(sampling), "top_k": sampling.top_k or -1, "stop": list(stop)}
        settings |= {"logprobs": 1, "return_token_ids": True}
        settings |= {"ignore_eos": True, "stop_token_ids": model.ends, "skip_special_tokens": False}
        seeds = (uniform[..., 0].flatten().double() * 2**31).long().tolist()
        rows = [list(prompt) for prompt in prompts for _ in range(samples)]
        asked = [{**settings, "prompt": row, "seed": seed} for row, seed in zip(rows, seeds, strict=True)]
        with ThreadPoolExecutor(min(TOGETHER, len(asked))) as pool:
            found = list(pool.map(self._written, asked))
        tokens, log_prob, finished = zip(*found, strict=True)
        return Completions(list(tokens), list(log_prob), list(finished))

    def _written(self, asked: Mapping[str, Any]) -> tuple[list[int], list[float], bool]:
        """One completion: its tokens, their likelihoods, and whether it ended."""
        answer = self._post("/v1/completions", asked)
        try:
            (choice,) = json.loads(answer)["choices"]
            tokens = [int(token) for token in choice["token_ids"]]
            log_prob = [float(x) for x in choice["logprobs"]["token_logprobs"]]
            reason = choice["finish_reason"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._odd("/v1/completions", answer) from error
        if not tokens or len(tokens) != len(log_prob) or reason not in ("stop", "length"):
            raise self._odd("/v1/completions", answer)
        return tokens, log_prob, reason == "stop"

    def _load(self, model: LanguageModel) -> str:
        """Hand the adapter over; its new name. The one before is removed."""
        if not model.adapted:
            raise UsageError(
                "engine='vllm-server' needs an adapter, which is handed to the server before each generation; give "
                "lora=16, or use engine='vllm', which shares all weights."
            )
        folder = Path(self.folder.name)  # of this process alone, like the names
        name, before = (f"{folder.name}-{number}" for number in (self.loaded + 1, self.loaded))
        model.network.save_pretrained(folder / name)
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder / name)})
        if self.loaded:
            self._post("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(folder / before, ignore_errors=True)
        self.loaded += 1
        return name

    def _post(self, path: str, content: Mapping[str, Any]) -> str:
        """The answer to a request."""
        request = Request(self.url + path, json.dumps(content).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=SECONDS) as answer:
                return answer.read().decode()
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:SAID]
            raise UsageError(
                f"the server {self.url} refused {path} ({error.code}: {said}); it must serve the model of this run: "
                f"{START}."
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise UsageError(f"the server {self.url} does not answer ({message_of(error)}); {START}.") from error

    def _odd(self, path: str, answer: str) -> UsageError:
        return UsageError(
            f"the server {self.url} answered {path} with {answer[:SAID]!r}, which is no completion with its tokens and "
            "their likelihoods; it must be vLLM 0.22 or newer."
        )
