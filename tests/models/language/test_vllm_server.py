"""A server of vLLM as an engine: what it is asked, what is made of its answers, and servers that do not answer."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.models.language.generation import generate
from surefoot.models.language.loading import load_model, with_lora
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sampling import Sampling
from surefoot.models.language.vllm_server import VLLMServer

TINY = Nano(width=16, layers=2, heads=2, context=64, warmup=0)
UNIFORM = torch.tensor([[[0.25, 0.5, 0.5], [0.75, 0.5, 0.5]]])
# An answer in the form of vLLM's, written by hand and cut to what it says of a choice.
ANSWER = {
    "id": "cmpl-8c5c2c4e",
    "object": "text_completion",
    "choices": [
        {
            "index": 0,
            "text": "12",
            "logprobs": {"tokens": ["1", "2"], "token_logprobs": [-0.5, -1.25], "top_logprobs": [{}, {}]},
            "finish_reason": "stop",
            "stop_reason": 2,
            "prompt_token_ids": [1, 30],
            "token_ids": [31, 2],
        }
    ],
    "usage": {"prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2},
}


@pytest.fixture
def server():
    """A server that notes what it is asked; `answers` says what it gives for a path."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/load_lora_adapter":  # it reads the adapter when it is told to
                content["files"] = sorted(path.name for path in Path(content["lora_path"]).iterdir())
            asked.append((self.path, content))
            code, said = made.answers.get(self.path, lambda _: (200, "Success"))(content)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked, made.url = asked, f"http://127.0.0.1:{made.server_address[1]}"
    made.answers = {"/v1/completions": lambda _: (200, json.dumps(ANSWER))}
    Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def adapted():
    model = fresh(TINY, seed=1)
    return LanguageModel(with_lora(model.network, 2), model.tokenizer)


def test_what_it_is_asked_and_what_is_made_of_the_answer(server, adapted):
    engine = VLLMServer(server.url + "/")
    for _ in range(2):
        found = engine(adapted, [[1, 30]], UNIFORM, temperature=0.7, stop=["\n"], sampling=Sampling(top_p=0.9))
        assert found.tokens == [[31, 2]] * 2 and found.log_prob == [[-0.5, -1.25]] * 2 and found.finished == [True] * 2
    paths = [path for path, _ in server.asked]
    load, unload, write = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"
    assert paths == [load, write, write, load, unload, write, write]
    (_, first), (_, second), (_, gone) = server.asked[0], server.asked[3], server.asked[4]
    assert "adapter_model.safetensors" in first["files"] and first["lora_name"] != second["lora_name"]
    assert gone == {"lora_name": first["lora_name"]} and not Path(first["lora_path"]).exists()
    seeds = sorted(content.pop("seed") for _, content in server.asked[1:3])
    assert seeds == [2**29, 3 * 2**29]
    assert server.asked[1][1] == server.asked[2][1] == {
        "model": first["lora_name"],
        "prompt": [1, 30],
        "max_tokens": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": ["\n"],
        "logprobs": 1,
        "return_token_ids": True,
        "ignore_eos": True,
        "stop_token_ids": adapted.ends,
        "skip_special_tokens": False,
    }  # fmt: skip


def test_a_run_learns_from_what_a_server_writes(server, tmp_path):
    folder = fresh(TINY, seed=1).save(tmp_path / "model")
    held = {}

    def load(content):
        held[content["lora_name"]] = load_model(content["lora_path"])
        return 200, "Success"

    def write(content):
        uniform = torch.rand(1, 1, content["max_tokens"], generator=torch.Generator().manual_seed(content["seed"]))
        found = generate(held[content["model"]], [content["prompt"]], uniform, temperature=content["temperature"])
        choice = {"token_ids": found.tokens[0], "finish_reason": "stop" if found.finished[0] else "length"}
        return 200, json.dumps({"choices": [{**choice, "logprobs": {"token_logprobs": found.log_prob[0]}}]})

    server.answers |= {"/v1/load_lora_adapter": load, "/v1/completions": write}
    sizes = {"prompts": 2, "samples": 4, "max_tokens": 4, "steps": 2, "loggers": (), "learning_rate": 0.1}
    run = sf.train(
        "grpo",
        task="arithmetic",
        model=folder,
        lora=2,
        engine="vllm-server",
        server=server.url,
        reward=lambda completions, **_: [float(len({*text})) for text in completions],
        run_dir=tmp_path / "run",
        callbacks=[lambda learner, _: learner.iteration == 1],
        **sizes,
    )
    assert run.metrics()[0]["engine_gap"] < 1e-4
    with pytest.raises(UsageError, match="server='http.*comes from the files of the run.*give server=… again"):
        sf.resume(run.path, reward=lambda completions, **_: [0.0] * len(completions))


@pytest.mark.parametrize(
    ("path", "answer", "said"),
    [
        ("/v1/load_lora_adapter", (404, "no such route"), "load_lora_adapter .404: no such route.*ALLOW_RUNTIME"),
        ("/v1/completions", (500, "out of memory"), "refused /v1/completions .500: out of memory"),
        ("/v1/completions", (200, "<html>"), "answered /v1/completions with '<html>'"),
        ("/v1/completions", (200, '{"choices": [{"text": "12"}]}'), "no completion with its tokens"),
        ("/v1/completions", (200, json.dumps(ANSWER).replace('"stop"', '"abort"')), "no completion with its tokens"),
    ],
)  # fmt: skip
def test_a_server_that_answers_otherwise_is_named(path, answer, said, server, adapted):
    server.answers[path] = lambda _: answer
    with pytest.raises(UsageError, match=said):
        VLLMServer(server.url)(adapted, [[1, 30]], UNIFORM, temperature=1.0)


def test_a_server_that_is_down_a_model_without_an_adapter_and_a_missing_url(server, adapted):
    with pytest.raises(UsageError, match="does not answer.*start it with: VLLM_ALLOW"):
        VLLMServer("http://127.0.0.1:9")(adapted, [[1, 30]], UNIFORM, temperature=1.0)
    with pytest.raises(UsageError, match="needs an adapter.*lora=16"):
        VLLMServer(server.url)(fresh(TINY, seed=1), [[1, 30]], UNIFORM, temperature=1.0)
    for url in (None, "localhost:8000", "file:///etc/passwd"):
        with pytest.raises(UsageError, match="needs server=… with the URL"):
            VLLMServer(url)
    with pytest.raises(UsageError, match="has no effect with engine='own'"):
        sf.train("grpo", task="arithmetic", server="http://localhost:8000", steps=1)
