"""A stand-in on loopback for Cloud Storage: its JSON API, as far as the libraries below us ask it.

gcsfs (and with it etils), tensorstore and array_record take its address from three variables of the
environment, see `environment`.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from urllib.parse import parse_qs, quote, unquote, urlparse

from tests.loopback import LoopbackHandler, LoopbackServer

NOT_FOUND = (404, {"error": {"code": 404, "message": "no such object"}})
CHANGED = (412, {"error": {"code": 412, "message": "a precondition does not hold"}})
API = "/storage/v1/b"
READ, WRITTEN, REMOVED = "read", "written", "removed"
PLACE = re.compile(r"(/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.*))?)?")
# An object, and where it is copied or moved to.
COPYING = re.compile(r"([^/]*)(?:/(copyTo|rewriteTo|moveTo)(?:/b/([^/]+))?/o/(.*))?")


class Storage(LoopbackServer):
    """Buckets in memory.

    Attributes:
      buckets: content by name, by bucket.
      done: what was done to contents, in its order: read, written or removed, bucket, name.
      refuses: what to answer instead of doing one of these: status, or None.
      says: the words of such an answer.
      marks: fields of an object that tell its content from another.
    """

    def __init__(self, *buckets: str):
        super().__init__(_Handler)
        self.lock = threading.RLock()
        self.hold(*buckets)

    def hold(self, *buckets: str) -> None:
        """Forgets all, and has these empty buckets."""
        self.buckets: dict[str, dict[str, bytes]] = {name: {} for name in buckets}
        self.done: list[tuple[str, str, str]] = []
        self.refuses: Callable[[str, str, str], int | None] = lambda what, bucket, name: None
        self.says = "told to refuse"
        self.marks = ("md5Hash", "generation")
        self.generations: dict[tuple[str, str], int] = {}
        self.sessions: dict[str, tuple[str, str, bytearray]] = {}

    def handle_error(self, request, client_address):
        pass  # gcsfs asks two questions at once, and hangs up when one is answered

    @property
    def environment(self) -> dict[str, str]:
        """What sends gcsfs, tensorstore and array_record here."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "FSSPEC_GCS": json.dumps({"token": "anon"}),
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.address,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks over gRPC with TLS first
        }

    def put(self, bucket: str, name: str, data: bytes) -> dict:
        with self.lock:
            self.buckets[bucket][name] = bytes(data)
            key = (bucket, name)
            self.generations[key] = self.generations.get(key, time.time_ns() // 1000) + 1
            return self.describe(bucket, name)

    def describe(self, bucket: str, name: str) -> dict:
        """An object as the API tells of it."""
        data = self.buckets[bucket][name]
        marks = {
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "generation": str(self.generations[bucket, name]),
        }
        written = datetime.fromtimestamp(self.generations[bucket, name] / 1e6, UTC)
        return {mark: marks[mark] for mark in self.marks} | {
            "kind": "storage#object",
            "id": f"{bucket}/{name}",
            "bucket": bucket,
            "name": name,
            "size": str(len(data)),
            "metageneration": "1",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": f"{written:%Y-%m-%dT%H:%M:%S.%fZ}",
            "storageClass": "STANDARD",
            "mediaLink": f"{self.address}/download{API}/{bucket}/o/{quote(name, '')}?alt=media",
        }


class _Handler(LoopbackHandler):
    server: Storage

    # ------------------------------------------------------------------------ requests

    def do_GET(self):
        self.handle_request()

    do_POST = do_PUT = do_DELETE = do_GET

    def handle_request(self) -> None:
        body, url = self.body(), urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/batch/storage/v1":
            self.batch(body)
            return
        if url.path.startswith("/session/"):
            self.go_on_with_upload(url.path.rpartition("/")[2], body)
            return
        place = PLACE.fullmatch(url.path)
        if not place or place[2] not in self.server.buckets:
            self.answer_json({"error": {"code": 404, "message": "no such bucket"}}, 404)
            return
        kind, bucket, name = place[1], place[2], unquote(place[3] or query.get("name", ""))
        if kind == "/upload":
            self.upload(bucket, name, query, body)
        elif query.get("alt") == "media" and place[3]:
            if self.may(READ, bucket, name):
                self.content(bucket, name)
        elif self.command == "DELETE" and not self.may(REMOVED, bucket, name):
            pass
        elif "/o" not in url.path:
            self.answer_json({"kind": "storage#bucket", "name": bucket, "id": bucket})
        else:
            self.answer_without_content(
                *self.without_content(self.command, bucket, place[3], query)
            )

    def answer_without_content(self, status: int, told: dict) -> None:
        if status == 204:  # which has no body
            self.answer(status)
        else:
            self.answer_json(told, status)

    def may(self, what: str, bucket: str, name: str) -> bool:
        """Whether something may be done, of which note is taken; else the refusal is answered."""
        self.server.done.append((what, bucket, name))
        status = self.server.refuses(what, bucket, name)
        if status:
            self.answer_json({"error": {"code": status, "message": self.server.says}}, status)
        return not status

    def without_content(
        self, method: str, bucket: str, quoted: str | None, query: dict
    ) -> tuple[int, dict]:
        """Answers what neither brings nor wants an object's content: status and JSON."""
        with self.server.lock:
            if quoted is None:
                return 200, self.listed(bucket, query)
            source, verb, other, new = COPYING.fullmatch(quoted).groups()
            objects, name = self.server.buckets[bucket], unquote(source)
            if name not in objects:
                return NOT_FOUND
            if verb:
                told = self.server.put(other or bucket, unquote(new), objects[name])
                if verb == "moveTo":
                    del objects[name]
                whole = {"kind": "storage#rewriteResponse", "done": True, "resource": told}
                return 200, whole if verb == "rewriteTo" else told
            if method == "DELETE":
                del objects[name]
                return 204, {}
            return 200, self.server.describe(bucket, name)

    def listed(self, bucket: str, query: dict) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.server.buckets[bucket]):
            after = name.removeprefix(prefix)
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            if delimiter and delimiter in after:
                prefixes.add(prefix + after.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.server.describe(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def content(self, bucket: str, name: str) -> None:
        data = self.server.buckets[bucket].get(name)
        if data is None:
            self.answer_without_content(*NOT_FOUND)
            return
        headers = {
            "X_Goog_Generation": str(self.server.generations[bucket, name]),
            "X_Goog_Metageneration": "1",
            "X_Goog_Stored_Content_Length": str(len(data)),
        }
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
            first, last = wanted.groups()
            begin = int(first) if first else max(len(data) - int(last), 0)
            end = min(int(last) + 1, len(data)) if first and last else len(data)
            if begin >= len(data):
                self.answer(416, Content_Range=f"bytes */{len(data)}")
                return
            headers["Content_Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
            self.answer(206, data[begin:end], **headers)
        else:
            self.answer(200, data, **headers)

    # ------------------------------------------------------------------------ uploads

    def upload(self, bucket: str, name: str, query: dict, body: bytes) -> None:
        kind = query.get("uploadType")
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, content = message_from_bytes(head + body).get_payload()
            name = name or json.loads(about.get_payload())["name"]
            body = content.get_payload(decode=True)
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
        if not self.may(WRITTEN, bucket, name):
            return
        if not self.holds(bucket, name, query):
            self.answer_without_content(*CHANGED)
        elif kind == "resumable":
            session = str(len(self.server.sessions))
            self.server.sessions[session] = (bucket, name, bytearray())
            self.answer(200, Location=f"{self.server.address}/session/{session}")
        else:
            self.answer_json(self.server.put(bucket, name, body))

    def holds(self, bucket: str, name: str, query: dict) -> bool:
        """Whether the precondition of a request does."""
        wanted = query.get("ifGenerationMatch")
        there = name in self.server.buckets[bucket]
        now = self.server.generations[bucket, name] if there else 0
        return wanted is None or int(wanted) == now

    def go_on_with_upload(self, session: str, body: bytes) -> None:
        bucket, name, got = self.server.sessions[session]
        got += body
        if self.headers["Content-Range"].endswith("/*"):
            headers = {"Range": f"bytes=0-{len(got) - 1}"} if got else {}
            self.answer(308, **headers)
        else:
            self.answer_json(self.server.put(bucket, name, bytes(got)))

    def batch(self, body: bytes) -> None:
        """Several requests without content in one."""
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        answers = []
        for part in message_from_bytes(head + body).get_payload():
            method, path, _ = part.get_payload().split(maxsplit=2)
            bucket, _, quoted = urlparse(path).path.removeprefix(f"{API}/").partition("/o/")
            self.server.done.append((REMOVED, bucket, unquote(quoted)))
            status, content = self.without_content(method, bucket, quoted, {})
            answers.append(
                f"--answers\r\nContent-Type: application/http\r\n"
                f"Content-ID: <response-{part['Content-ID'].strip('<>')}>\r\n\r\n"
                f"HTTP/1.1 {status} said\r\n\r\n{json.dumps(content)}\r\n"
            )
        text = "".join(answers) + "--answers--"
        self.answer(200, text.encode(), Content_Type="multipart/mixed; boundary=answers")
