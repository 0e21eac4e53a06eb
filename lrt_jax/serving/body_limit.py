"""A limit on the bytes of a call, of which its sender is sure to hear."""

import asyncio
import contextlib

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 10.0  # seconds for a sender to come to an end before it is cut off


class BodyLimit:
    """ASGI middleware: a call of more bytes is refused with status 413 as soon as they have come.

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
        message = await self._receive()
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
