"""Carrying requests: a threading HTTP server of the standard library with bounds on what is sent."""

from __future__ import annotations

import logging
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from saqsam.serve.gate import Gate
from saqsam.serve.routes import Reply, Routes, reply_error
from saqsam.serve.site import HEADERS

logger = logging.getLogger("saqsam")
_SECONDS = 60
"""After which a client that sends nothing is let go."""


class Server(ThreadingHTTPServer):
    """Listens at an address; threads end with the process.

    Args:
        address: host and port; port 0 takes any that is free.
        routes: what each address does.
        gate: who may ask.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], routes: Routes, gate: Gate) -> None:
        self.routes, self.gate = routes, gate
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; others are told in the log."""
        logger.debug("request of %s broke off", client_address, exc_info=True)


def _one_line(text: str) -> str:
    """Words as they may follow a status."""
    return "".join(one if " " <= one <= "~" else "?" for one in " ".join(text.split()))[:500]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    server_version, sys_version = "saqsam", ""
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    def do_GET(self) -> None:
        """A file, a state, a list of models."""
        refused = self._refused()
        reply = refused or self.server.routes.get(self.path)
        if reply.headers.get("ETag") and self.headers.get("If-None-Match") == reply.headers["ETag"]:
            reply = Reply(304, b"", reply.kind, reply.headers)
        self._send(reply)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """An image, a question."""
        refused = self._refused() or self._unreadable()
        if refused is not None:
            self.close_connection = True  # what was sent is not read
            self._send(refused)
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.server.routes.post(self.path, body))

    def _refused(self) -> Reply | None:
        gate, computes = self.server.gate, self.server.routes.computes(self.path)
        headers = {name.title(): value for name, value in self.headers.items()}
        reason = gate.refusal(headers, computes=computes)
        if reason is not None:
            return reply_error(403, reason)
        if computes and not gate.knows(headers, self.path):
            return reply_error(401, "this server wants the token of the address that saqsam printed; send it")
        return None

    def _unreadable(self) -> Reply | None:
        most = self.server.routes.limit(self.path)
        if most is None:
            return reply_error(404, "nothing can be sent to this address; docs/web.md lists the addresses")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            return reply_error(411, "send the body whole, with its Content-Length")
        if int(length) > most:
            return reply_error(413, f"{int(length):,} bytes are more than the {most:,} that may be sent")
        return None

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status, None if reply.reason is None else _one_line(reply.reason))
        for name, value in {**HEADERS, **reply.headers}.items():
            self.send_header(name, value)
        if reply.status != 304:
            self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are told with -v only; the token in an address is not."""
        logger.debug("%s %s", self.command, self.path.partition("?")[0])
