"""Servers on loopback that stand in for what is elsewhere."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

AnyServer = TypeVar("AnyServer", bound="LoopbackServer")


class LoopbackServer(ThreadingHTTPServer):
    """Listens on a port that nobody has."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)

    def server_bind(self):
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks for the host's name: seconds
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class LoopbackHandler(BaseHTTPRequestHandler):
    """Reads what is sent, and answers."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: apart, each waits for the other side's word
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def answer_json(self, value, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)


@contextlib.contextmanager
def serving(server: AnyServer) -> Iterator[AnyServer]:
    """Serves while it is open."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
