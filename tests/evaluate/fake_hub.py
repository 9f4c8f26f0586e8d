"""The part of the Hugging Face Hub's interface that pushing and loading need: repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a" * 34


class FakeHub:
    """Repositories by name, each a dict of files, and what was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.messages: list[str] = []

    def sha(self, name: str) -> str:
        """The commit that a repository's content stands for."""
        content = [(path, data.hex()) for path, data in sorted(self.repositories[name].items())]
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        place = self.path.partition("?")[0]
        words = place.strip("/").split("/")
        if place == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.created.append(asked)
            self.hub.repositories.setdefault(name, {})
            return self.answer(200, {"url": f"{self.address()}/{name}", "name": name})
        if place == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        name = f"{words[2]}/{words[3]}"
        if words[4] == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.hub.messages.append(entry["value"]["summary"])
            elif entry["key"] == "file":
                self.hub.repositories[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        sha = self.hub.sha(name)
        return self.answer(200, {"commitUrl": f"{self.address()}/{name}/commit/{sha}", "commitOid": sha})

    def do_GET(self) -> None:
        words = self.path.partition("?")[0].strip("/").split("/")
        at = 2 if words[0] == "api" else 0
        name = "/".join(words[at : at + 2])
        if name not in self.hub.repositories:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        files, sha = self.hub.repositories[name], self.hub.sha(name)
        if words[0] != "api":
            data = files["/".join(words[4:])]
            etag = f'"{hashlib.sha1(data).hexdigest()}"'
            return self.answer(200, data, ETag=etag, X_Repo_Commit=sha)
        if "tree" in words:
            rows = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files.items()
            ]
            return self.answer(200, rows)
        rows = [{"rfilename": path} for path in files]
        return self.answer(
            200, {"id": name, "modelId": name, "sha": sha, "siblings": rows, "private": False, "tags": []}
        )

    def do_HEAD(self) -> None:
        self.do_GET()

    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]


@contextmanager
def serving() -> Iterator[tuple[FakeHub, str]]:
    """A hub, and its address."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connected(monkeypatch: Any, address: str, folder: Any, token: str | None = TOKEN) -> None:
    """Let huggingface_hub use the hub at this address, with a token and a cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
