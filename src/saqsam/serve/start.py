"""From models to a server that is ready to answer."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saqsam import __version__, api
from saqsam.engines.names import AUTO
from saqsam.errors import UsageError
from saqsam.pack.file import read_packed
from saqsam.sam import Sam
from saqsam.serve.answers import Decoder
from saqsam.serve.encodings import Encodings
from saqsam.serve.gate import LOOPBACK, Gate
from saqsam.serve.http import Server
from saqsam.serve.routes import MOST_BYTES, Routes
from saqsam.serve.site import folder_site, page_site
from saqsam.web.facts import count_numbers, model_facts
from saqsam.web.write import MANIFEST

_ALL = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}  # noqa: S104 - looked up here, not listened at
"""Words for all addresses of a machine, each with an address outside, from the ranges for documentation."""
_PORTS = 10
"""So many are tried from the usual one on, where none was asked for."""


@dataclass
class Serving:
    """A server that listens.

    Attributes:
        server: of the standard library; ``serve_forever`` answers requests.
        address: for a browser, with the token if there is one.
        engines: who computes each model; none where a folder is offered.
    """

    server: Server
    address: str
    engines: list[str]
    encodings: Encodings | None = None

    def close(self) -> None:
        """Stop listening, and end the encoder's thread."""
        self.server.server_close()
        if self.encodings is not None:
            self.encodings.close()


def start(
    models: Sequence[str],
    *,
    host: str = LOOPBACK[0],
    port: int | None = None,
    engine: str = AUTO,
    device: str = "cpu",
    max_pixels: int | None = None,
) -> Serving:
    """Load models and listen; nothing is answered before ``serve_forever`` is called.

    Args:
        models: one or two, or a folder written by ``saqsam export --format web``.
        host: address to listen at; any but this machine's own wants a token, which is drawn here.
        port: ``None`` takes 8000, or one of the next if that is taken.
        engine: ``auto``, or as of ``saqsam.load``.
        device: of PyTorch.
        max_pixels: larger images are refused.

    Raises:
        UsageError: the address cannot be listened at. CheckpointError: a model or folder cannot be read.
    """
    token = None if host in LOOPBACK else secrets.token_urlsafe(16)
    encodings, used = None, []
    if len(models) == 1 and (Path(models[0]) / MANIFEST).is_file():
        routes = Routes(folder_site(Path(models[0])))
    else:
        sams = [api.load(one, device=device, engine=engine) for one in models]
        used = [sam.engine for sam in sams]
        entries = [_entry(*row) for row in zip(range(len(models)), models, sams, strict=True)]
        site = page_site(lambda titles: _manifest(entries, titles))
        encodings = Encodings(sams, max_pixels)
        routes = Routes(site, encodings, Decoder(encodings), _names(entries))
    server = _listen(host, port, routes, Gate(token))
    shown = reachable(host)
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{server.server_address[1]}/" + (f"?token={token}" if token else "")
    return Serving(server, address, used, encodings)


def reachable(host: str) -> str:
    """An address at which other machines find this one, where ``host`` stands for all that it has.

    Of several the one that leads outside. Nothing is sent: a datagram socket only looks up its way.
    """
    if host not in _ALL:
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as found:
        try:
            found.connect((_ALL[host], 9))
        except OSError:  # no way outside
            return socket.gethostname()
        address: str = found.getsockname()[0]
    return address


def _listen(host: str, port: int | None, routes: Routes, gate: Gate) -> Server:
    tried = range(8000, 8000 + _PORTS) if port is None else (port,)
    problem: OSError | None = None
    for one in tried:
        try:
            return Server((host, one), routes, gate)
        except OSError as error:
            problem = error
    reason = problem.strerror if problem is not None else ""
    raise UsageError(
        f"{host}, port {tried[0]}: cannot be listened at ({reason}); choose another --port or --host"
    )


def _entry(index: int, source: str, sam: Sam) -> dict[str, Any]:
    if sam.file is not None:
        numbers = count_numbers(read_packed(sam.file))
        digest = hashlib.sha256(sam.file.read_bytes()).hexdigest()
    else:
        numbers, digest = sum(one.numel() for one in sam.model.parameters()), None
    facts = model_facts(
        source, sam.model.config, sam.quantization, own=sam.answering(), file=sam.file, numbers=numbers
    )
    computed = {"engine": f"{sam.engine}, by saqsam on its server", "threads": torch.get_num_threads()}
    return {**facts, **computed, "index": index, "sha256": digest, "parity": None}


def _names(entries: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the models, different ones."""
    names = [str(one["name"]) for one in entries]
    return tuple(name if names.index(name) == i else f"{name}-{i + 1}" for i, name in enumerate(names))


def _manifest(entries: Sequence[dict[str, Any]], titles: dict[str, str]) -> bytes:
    found = {
        "format": "saqsam-web",
        "version": 1,
        "saqsam": __version__,
        "engine": {"kind": "server", "name": "saqsam", "most_bytes": MOST_BYTES},
        "models": list(entries),
        "examples": [{"path": f"examples/{name}", "title": title} for name, title in titles.items()],
    }
    return json.dumps(found).encode()
