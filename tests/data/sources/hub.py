"""A stand-in on loopback for the Hub, as far as downloads need it."""

import hashlib
import re
from urllib.parse import unquote, urlparse

from tests.loopback import LoopbackHandler, LoopbackServer


class Server(LoopbackServer):
    """Serves `files`, and remembers what was asked for.

    Attributes:
      cut: names of files of which the next answer ends half way.
      asked: `(path, Range header or None)` of every request for a file's content.
      dies: whether an answer that was cut is the last: nothing is answered after it.
      refuse: status and error code with which everything is refused, or None.
    """

    def __init__(self, handler, files: dict[str, bytes]):
        super().__init__(handler)
        self.files, self.cut, self.asked = files, set(), []
        self.dies, self.refuse = False, None

    @property
    def sha(self) -> str:
        """The commit: another for other files."""
        return hashlib.sha1("".join(sorted(self.files)).encode()).hexdigest()


class Handler(LoopbackHandler):
    """Files, from where they are asked for."""

    def content(self, name: str, **headers) -> None:
        """A file, from where it is asked for; half of it where it is to be cut."""
        data, wanted = self.server.files[name], self.headers.get("Range")
        self.server.asked.append((name, wanted))
        first = int(re.match(r"bytes=(\d+)", wanted)[1]) if wanted else 0
        rest, status = data[first:], 206 if wanted else 200
        if wanted:
            headers["Content_Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.close_connection = True
            self.server.refuse = (503, "dead") if self.server.dies else None
            self.answer(status, rest[: len(rest) // 2], Content_Length=str(len(rest)), **headers)
        else:
            self.answer(status, rest, **headers)


class HubHandler(Handler):
    """`/api/datasets/...` and `/datasets/.../resolve/...` of one data set, acme/pairs."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        if self.server.refuse:
            status, code = self.server.refuse
            self.answer_json({"error": code}, status, X_Error_Code=code)
        elif not path.startswith(("/api/datasets/acme/pairs", "/datasets/acme/pairs/")):
            self.answer_json({"error": "no"}, 404, X_Error_Code="RepoNotFound")
        elif "/tree/" in path:
            self.answer_json([self._entry(name) for name in self.server.files])
        elif match := re.fullmatch(r"/datasets/acme/pairs/resolve/\w+/(.*)", path):
            self._file(match[1])
        elif path.endswith("/revision/nowhere"):
            self.answer_json({"error": "no"}, 404, X_Error_Code="RevisionNotFound")
        else:
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer_json({"id": "acme/pairs", "sha": self.server.sha, "siblings": siblings})

    def _entry(self, name: str) -> dict:
        data = self.server.files[name]
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "path": name, "size": len(data), "oid": oid}

    def _file(self, name: str) -> None:
        etag = {"ETag": f'"{self._entry(name)["oid"]}"', "X_Repo_Commit": self.server.sha}
        if self.command == "HEAD":
            length = str(len(self.server.files[name]))
            self.answer(200, b"", Content_Length=length, Accept_Ranges="bytes", **etag)
        else:
            self.content(name, **etag)
