"""What each address does, apart from how it is carried: requests in, answers out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from saqsam.errors import ImageError, PromptError, SaqsamError, UsageError
from saqsam.serve.answers import LOGITS, Decoder, as_json, read_question
from saqsam.serve.anylabeling import PREFIX, AnyLabeling
from saqsam.serve.encodings import FAILED, READY, Encodings, QueueFull
from saqsam.serve.site import Site
from saqsam.web.write import MANIFEST

logger = logging.getLogger("saqsam")
MOST_BYTES = 100_000_000
"""Of an image that is sent."""
MOST_JSON = 1_000_000
_BINARY, _JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True)
class Reply:
    """An HTTP answer: status, body, its type, further headers, and words of its own for the status."""

    status: int
    body: bytes
    kind: str = _JSON
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None


def reply_json(status: int, value: Any) -> Reply:
    """An answer in JSON."""
    return Reply(status, (json.dumps(value) + "\n").encode())


def reply_error(status: int, reason: str) -> Reply:
    """What went wrong, as ``{"error": ...}``."""
    return reply_json(status, {"error": reason})


class Routes:
    """The page's files, and with models the interface that computes.

    Args:
        site: files by path.
        encodings: images and their embeddings; ``None`` where only files are offered.
        decoder: answers questions about them.
        names: of the models, for labelling tools.
    """

    def __init__(
        self,
        site: Site,
        encodings: Encodings | None = None,
        decoder: Decoder | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        self._site = site
        self._posts: dict[str, tuple[int, Callable[[str, bytes], Reply]]] = {}
        if encodings is not None and decoder is not None:
            self._encodings, self._decoder = encodings, decoder
            self._labels = AnyLabeling(encodings, decoder, names)
            self._posts = {
                "api/images": (MOST_BYTES, self._send),
                "api/decode": (MOST_JSON, self._decode),
                f"{PREFIX}predict": (MOST_BYTES * 4 // 3 + MOST_JSON, self._predict),
            }

    @staticmethod
    def computes(path: str) -> bool:
        """Whether an address is more than one of the page's files; the manifest tells of models, so it is."""
        return urlsplit(path).path.lstrip("/").startswith(("api/", PREFIX, MANIFEST))

    def limit(self, path: str) -> int | None:
        """Most bytes of what may be sent to an address; ``None`` where nothing may."""
        found = self._posts.get(urlsplit(path).path.lstrip("/"))
        return None if found is None else found[0]

    def get(self, path: str) -> Reply:
        """Answer a GET."""
        address = urlsplit(path)
        name = unquote(address.path).lstrip("/")
        if self._posts:
            if name.startswith("api/images/"):
                return self._state(name.removeprefix("api/images/"), address.query)
            if name == "health" or name.startswith(PREFIX):
                found = self._labels.get(name)
                if found is not None:
                    return reply_json(200, found)
        content = self._site.find(name)
        if content is None:
            return reply_error(404, f"there is nothing at /{name}; docs/web.md lists the addresses")
        return Reply(200, content.data, content.kind, {"ETag": content.tag})

    def post(self, path: str, body: bytes) -> Reply:
        """Answer a POST; errors of the library become statuses with their message."""
        address = urlsplit(path)
        try:
            return self._posts[address.path.lstrip("/")][1](address.query, body)
        except QueueFull as error:
            return reply_error(503, str(error))
        except (ImageError, PromptError) as error:
            return reply_error(422, str(error))
        except UsageError as error:
            return reply_error(400, str(error))
        except SaqsamError as error:
            return reply_error(500, str(error))
        except Exception as error:
            logger.debug("%s", address.path, exc_info=True)
            return reply_error(500, f"unexpected {type(error).__name__}; run 'saqsam -v serve' to see where")

    def _model(self, query: str) -> int:
        return self._checked(parse_qs(query).get("model", ["0"])[0])

    def _checked(self, model: object) -> int:
        count = len(self._encodings.models)
        number = (
            int(model) if isinstance(model, int) or (isinstance(model, str) and model.isdecimal()) else -1
        )
        if not 0 <= number < count:
            raise UsageError(f"model {model}: expected a number from 0 to {count - 1}")
        return number

    def _send(self, query: str, body: bytes) -> Reply:
        found = self._encodings.submit(self._model(query), body)
        if parse_qs(query).get("wait", ["0"])[0] not in ("0", ""):
            found.done.wait()
        status = {READY: 200, FAILED: 500}.get(found.state, 202)
        return reply_json(status, found.to_dict(self._encodings.ahead(found)))

    def _state(self, image: str, query: str) -> Reply:
        try:
            found = self._encodings.find(self._model(query), image)
        except UsageError as error:
            return reply_error(400, str(error))
        if found is None:
            return reply_error(404, f"image {image} is not kept here; send it again")
        return reply_json(200, found.to_dict(self._encodings.ahead(found)))

    def _decode(self, query: str, body: bytes) -> Reply:
        question = read_question(body)
        encoding = self._encodings.find(self._checked(question.model), question.image)
        if encoding is None:
            return reply_error(404, f"image {question.image} is not kept here; send it again")
        encoding.done.wait()
        if encoding.state == FAILED:
            return reply_error(500, f"image {question.image}: {encoding.error}; send it again")
        answer = self._decoder.answer(encoding, question)
        if question.format != LOGITS:
            return reply_json(200, as_json(answer, encoding))
        headers = {
            "X-Saqsam-Iou-Scores": json.dumps(answer.scores.tolist()),
            "X-Saqsam-Shape": json.dumps(list(answer.logits.shape)),
            "X-Saqsam-Seconds": f"{answer.seconds:.6f}",
        }
        if answer.crops:
            headers["X-Saqsam-Windows"] = json.dumps([window for window, _ in answer.crops])
            headers["X-Saqsam-Encode-Seconds"] = f"{answer.encode_seconds:.6f}"
        if answer.objects is not None:
            headers["X-Saqsam-Object-Scores"] = json.dumps(answer.objects.tolist())
        data = answer.logits.contiguous().numpy().astype("<f4").tobytes()
        return Reply(200, data, _BINARY, headers)

    def _predict(self, query: str, body: bytes) -> Reply:
        status, found = self._labels.predict(body)
        reason = None if status == 200 else found["error"]["message"]
        return replace(reply_json(status, found), reason=reason)
