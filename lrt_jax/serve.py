"""Serves a reward model over HTTP: comparisons, rankings, rewards, and a page for people.

    lrt serve --model=RUN

Needs `pip install lrt_jax[serve]`. docs/serving.md says what is asked how.
"""

import asyncio
import importlib.util
import signal
import socket
from typing import TYPE_CHECKING

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.cli.reward_model import define_reward_model, open_reward_model
from lrt_jax.parallel import processes
from lrt_jax.parallel.shutdown import NAMES, StopSignals, install_handlers
from lrt_jax.storage.disk import expanded

if TYPE_CHECKING:
    from lrt_jax.serving.rewards import Groups
    from lrt_jax.serving.service import Service

CONNECTIONS = 4096  # at the same time, idle ones too


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_compilation_cache(values)
    define_reward_model(values, max_prompt_tokens=0)
    flags.DEFINE_string(
        "host", "127.0.0.1", "Address to listen at; 0.0.0.0 for all networks.", flag_values=values
    )
    flags.DEFINE_integer(
        "port", 8000, "Port to listen at; 0 for any.", 0, 65535, flag_values=values
    )
    flags.DEFINE_list(
        "votes",
        ["1"],
        "How many completions for each order a call may ask for; the first where it asks for none.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "anchors",
        [],
        "Files of images that a lone image of a text is compared with, for its reward.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "opponents",
        8,
        "Images of a group that all others are compared with, where it has more than one more.",
        lower_bound=1,
        flag_values=values,
    )
    for name, default, help in (
        ("max_body", 64 * 2**20, "Bytes of a call; more are answered with status 413."),
        ("max_pixels", 2**24, "Of an image; more are answered with status 422."),
        ("max_images", 64, "Of a call; more are answered with status 400."),
        ("max_caption", 4096, "Characters of a caption; more are answered with status 422."),
        ("max_calls", 512, "Answered at the same time; more are answered with status 503."),
    ):
        flags.DEFINE_integer(name, default, help, lower_bound=1, flag_values=values)
    flags.DEFINE_float(
        "wait_ms",
        5.0,
        "Milliseconds that a comparison may wait for others to fill its batch.",
        lower_bound=0.0,
        flag_values=values,
    )


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if missing := [x for x in ("fastapi", "uvicorn") if importlib.util.find_spec(x) is None]:
        raise ValueError(f"{', '.join(missing)} not installed: pip install 'lrt_jax[serve]'")
    votes = _votes(values.votes)
    listening = listen(values.host, values.port)
    commands.start()

    from lrt_jax.inference.pictures import open_picture
    from lrt_jax.serving.limits import Limits
    from lrt_jax.serving.rewards import Groups
    from lrt_jax.serving.service import Service

    anchors = [open_picture(expanded(file), "--anchors").pixels for file in values.anchors]
    limits = Limits(
        body=values.max_body,
        pixels=values.max_pixels,
        images=values.max_images,
        calls=values.max_calls,
        votes=votes,
        caption=values.max_caption,
    )

    service = Service(lambda: open_reward_model(values), limits, wait=values.wait_ms / 1000)
    run_server(service, Groups(anchors, values.opponents), listening)


def _votes(given: list[str]) -> tuple[int, ...]:
    if not given or not all(x.isascii() and x.isdigit() and int(x) for x in given):
        raise ValueError(f"--votes={','.join(given)}: numbers from 1, with commas between")
    return tuple(dict.fromkeys(map(int, given)))


def listen(host: str, port: int) -> socket.socket:
    """A socket; made before the model is opened, which takes long.

    Raises:
      OSError: nobody can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        error.add_note(f"--host={host} --port={port}: nobody can listen there")
        raise


def run_server(service: "Service", groups: "Groups", listening: socket.socket) -> None:
    """Answers calls until a signal comes, and then those that have begun.

    Raises:
      Exception: the model could not be opened, and why.
    """
    import uvicorn

    from lrt_jax.serving.app import make_app

    def stop(*_) -> None:
        server.should_exit = True

    app = make_app(service, groups, on_failure=stop)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, limit_concurrency=CONNECTIONS, server_header=False
    )
    server = uvicorn.Server(config)
    host, port = listening.getsockname()[:2]
    commands.log(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}")
    before = install_handlers(stop)
    try:
        with StopSignals(lambda _: None):  # in the place of the one that gives commands seconds
            asyncio.run(server.serve(sockets=[listening]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if service.failure is not None:
        raise service.failure
    calls = "cut off" if server.force_exit else "answered"
    commands.log(f"ended; all calls that had begun are {calls}")
    if not service.ready:
        processes.end(0, NAMES[signal.SIGTERM])  # in whatever it compiles


if __name__ == "__main__":
    commands.run(main, define_flags)
