"""A stand-in on loopback for the Hub, as far as putting a model there needs it."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from urllib.parse import unquote, urlparse

from huggingface_hub import constants

from tests.data.sources.hub import Handler, Server
from tests.loopback import serving

NAME = "acme/judge"


class ModelHandler(Handler):
    """The repositories of acme; `server.files` is the content of `NAME`.

    What the server must have besides: `private`, None as long as there is no such repository, and
    `commits`, the titles of what was committed.
    """

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if self._refused():
            return
        if "/tree/" in path:
            names = [{"type": "file", "path": n, "size": 1, "oid": "0"} for n in self.server.files]
            self.answer_json(names)
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {"id": NAME, "sha": self.server.sha, "private": self.server.private}
            self.answer_json(info | {"siblings": siblings})

    def do_POST(self):
        path = unquote(urlparse(self.path).path)
        body = self.body()
        if self._refused():
            return
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
        elif path == f"/api/models/{NAME}/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer_json({"files": files})
        elif path == f"/api/models/{NAME}/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self.answer_json({"error": f"no {path}"}, 404)

    def _refused(self) -> bool:
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.refuse and re.search(self.server.refuse[2], self.path):
            self.answer_json({"error": "no"}, self.server.refuse[0])
            return True
        return False

    def _create(self, wanted: dict) -> None:
        there = self.server.private is not None
        if not there:
            self.server.private = wanted["visibility"] == "private"
        url = {"url": f"{self.server.address}/{NAME}"}
        self.answer_json(url, 409 if there else 200)

    def _commit(self, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            else:
                del self.server.files[value["path"]]
        url = f"{self.server.address}/{NAME}/commit/{self.server.sha}"
        self.answer_json({"success": True, "commitOid": self.server.sha, "commitUrl": url})


@contextlib.contextmanager
def model_hub(monkeypatch) -> Iterator[Server]:
    """A Hub that has no model yet, for somebody who has a token."""
    with serving(Server(ModelHandler, {})) as server:
        server.private, server.commits = None, []
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield server
