"""A limit on the bytes of a call, of which its sender is sure to hear."""

import asyncio
import contextlib

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENCE = 30.0  # seconds without a byte after which a sender has lost its way
PATIENCE = 10.0  # seconds for a sender to come to an end of what nobody reads


class BodyLimit:
    """ASGI middleware: a call of more bytes is refused with status 413 as soon as they have come,
    and one that stops in the middle with 408.

    Whatever the status of an answer, what is still being sent is read before it, and forgotten:
    most clients send all before they listen, and to them a server that hangs up has broken down.

    Args:
      app: that answers calls.
      limit: bytes of a call.
    """

    def __init__(self, app: ASGIApp, limit: int):
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._limit)

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.discard()
            await send(message)

        await self._app(scope, body.receive, send_after_body)


class _Body:
    """What is sent of a call."""

    def __init__(self, receive: Receive, limit: int):
        self._receive, self._left, self._more = receive, limit, True

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout(SILENCE if self._more else None):
                message = await self._receive()
        except TimeoutError as error:
            self._more = False
            raise HTTPException(408, f"nothing came for {SILENCE:g} seconds") from error
        self._more = message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HTTPException(413)
        return message

    async def discard(self) -> None:
        """Reads what is still to come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._more:
                    self._more = (await self._receive()).get("more_body", False)
