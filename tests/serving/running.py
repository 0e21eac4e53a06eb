"""Servers of stub models on loopback, and how tests ask them."""

import base64
import contextlib
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.serving.app import make_app
from lrt_jax.serving.limits import Limits
from lrt_jax.serving.rewards import Groups
from lrt_jax.serving.service import Service

CAPTION = "a small red circle on the left above a large blue cross on the right"


class Client:
    """Asks a server, one call after the other."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def get(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())


@contextlib.contextmanager
def served(
    model: RewardModel, limits: Limits | None = None, groups: Groups | None = None
) -> Iterator[int]:
    """Serves a model while it is open: the port."""
    service = Service(lambda: model, limits or Limits())
    config = uvicorn.Config(make_app(service, groups), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        _wait(lambda: service.ready and server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def _wait(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def pixels(seed: int, size: int = 84) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(seed: int, size: int = 84) -> bytes:
    """A file of noise."""
    file = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(file, "PNG")
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def comparison(first: int, second: int, caption: str = CAPTION) -> dict[str, str]:
    """A call of `/compare`, of two files of noise."""
    files = {"first": encoded(png(first)), "second": encoded(png(second))}
    return {"caption": caption, **files}
