"""A loopback mirror of the Hugging Face Hub's file layout, and an open_clip model to put there."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import torch
from open_clip.model import CLIP
from safetensors.torch import save
from tiny_models import RANDOM_CLIP

PREPROCESS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"}
CONFIG = {"model_cfg": RANDOM_CLIP, "preprocess_cfg": PREPROCESS}


def random_weights(seed: int = 0) -> bytes:
    """A safetensors file of the weights of a tiny, randomly initialised CLIP."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return save(CLIP(**RANDOM_CLIP).state_dict())


def model_files(seed: int = 0) -> dict[str, bytes]:
    """What a repository in open_clip's layout holds."""
    return {
        "open_clip_config.json": json.dumps(CONFIG).encode(),
        "open_clip_model.safetensors": random_weights(seed),
    }


class HubServer:
    """Serves repositories as ``/ORGANISATION/NAME/resolve/REVISION/FILE``.

    Attributes
    ----------
    repositories : dict of str to dict of str to mapping of str to bytes
        By name and revision, the files.
    requests : list of (str, str)
        Method and path of each request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Mapping[str, bytes]]] = {}
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def put(
        self, repository: str, files: Mapping[str, bytes], revisions: tuple[str, ...] = ("main",)
    ) -> str:
        """Give a repository these files under each revision and under their commit's hash."""
        content = repr(sorted(files.items())).encode()
        commit = hashlib.sha1(content).hexdigest()
        for revision in (*revisions, commit):
            self.repositories.setdefault(repository, {})[revision] = files
        return commit

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> tuple[str | None, bytes | str]:
        """Commit, and content of the file that a path names or the Hub's code of the error."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[2:3] != ["resolve"]:
            return None, "EntryNotFound"
        if "/".join(parts[:2]) not in self.repositories:
            return None, "RepoNotFound"
        revisions, revision = self.repositories["/".join(parts[:2])], parts[3]
        if revision not in revisions:
            return None, "RevisionNotFound"
        files = revisions[revision]
        commit = next(one for one in revisions if len(one) == 40 and revisions[one] == files)
        return commit, files.get("/".join(parts[4:]), "EntryNotFound")

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                hub.requests.append((self.command, self.path))
                commit, found = hub.find(self.path)
                body = b"" if isinstance(found, str) else found
                self.send_response(404 if isinstance(found, str) else 200)
                if isinstance(found, str):
                    self.send_header("X-Error-Code", found)
                else:
                    self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                if commit is not None:
                    self.send_header("X-Repo-Commit", commit)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler
