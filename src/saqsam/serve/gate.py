"""Who may ask: this machine's own pages, and whoever has the token where the server listens to others."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Gate:
    """Rules for requests.

    Attributes:
        token: that every request but for the page's own files must show; ``None`` on this machine's address.
    """

    token: str | None

    def refusal(self, headers: Mapping[str, str], *, computes: bool) -> str | None:
        """Why a request is refused, or ``None``; ``computes`` where it asks for more than the page's files.

        Without a token, a page from elsewhere must not be able to ask: neither under a name of its own that
        it lets point here (the Host header tells), nor across origins (Origin and Sec-Fetch-Site tell).
        """
        host = headers.get("Host", "")
        if self.token is None and _name(host) not in LOOPBACK:
            return f"Host {host!r}: this server answers to {LOOPBACK[0]} and {LOOPBACK[1]} only"
        if not computes:
            return None
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Origin {origin!r}: pages of other sites may not ask this server"
        if headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            return "pages of other sites may not ask this server"
        return None

    def knows(self, headers: Mapping[str, str], path: str) -> bool:
        """Whether a request shows the token, in one of the ways that clients have.

        ``Authorization: Bearer TOKEN``, or Basic with it as password; ``Token: TOKEN``; ``?token=TOKEN``.
        """
        if self.token is None:
            return True
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in _shown(headers, path))


def _name(host: str) -> str:
    """The name in ``name:port``, also of an address in brackets."""
    return (
        host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.rpartition(":")[0] or host
    )


def _shown(headers: Mapping[str, str], path: str) -> list[str]:
    found = parse_qs(urlsplit(path).query).get("token", [])
    kind, _, value = headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        found.append(value.strip())
    if kind.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            found.append(base64.b64decode(value, validate=True).decode().rpartition(":")[2])
    return [*found, headers.get("Token", "")]
