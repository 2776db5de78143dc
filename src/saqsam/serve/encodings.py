"""Images that were sent, and their embeddings: encoded one at a time, the latest kept."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saqsam.errors import ImageError, SaqsamError
from saqsam.families.embedding import Embedding
from saqsam.families.framing import preprocess
from saqsam.images.crops import Window, cut
from saqsam.images.files import LoadedImage, open_image
from saqsam.images.frame import Frame
from saqsam.sam import Sam
from saqsam.segment.decode import embed

WAITING, ENCODING, READY, FAILED = "waiting", "encoding", "ready", "failed"
KEPT, MOST_WAITING = 8, 16
KEPT_CROPS = 8
"""Of each image."""
_ID_LENGTH = 32


class QueueFull(SaqsamError):
    """So many images wait already that another one would have to wait for minutes."""


@dataclass(eq=False)
class Encoding:
    """One image, or a crop of one, for one model.

    Attributes:
        image: its name in requests: the beginning of the SHA-256 of the file.
        model: number of the model.
        number: counts images in the order in which they are encoded.
        frame: where the image lies in the model's input.
        pixel_values: ``(1, 3, S, S)``; ``None`` once it is encoded.
        notes: what was changed on the way from the file to pixels.
        data: the image file, of which crops may be asked for; empty for a crop.
        pixels: ``(H, W, 3)`` uint8 of an image of which a crop was asked for; else ``None``.
        crops: of the image, by window, that were encoded lately.
        state: ``waiting``, ``encoding``, ``ready`` or ``failed``.
        embedding: of the image, once it is ready.
        seconds: that encoding took.
        error: what went wrong, once it has failed.
    """

    image: str
    model: int
    number: int
    frame: Frame
    pixel_values: Tensor | None
    notes: tuple[str, ...]
    data: bytes = b""
    pixels: npt.NDArray[np.uint8] | None = None
    crops: OrderedDict[Window, Encoding] = field(default_factory=OrderedDict)
    state: str = WAITING
    embedding: Embedding | None = None
    seconds: float = 0.0
    error: str | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def to_dict(self, ahead: int) -> dict[str, Any]:
        """Plain JSON types; ``ahead`` images are encoded before it."""
        height, width = self.frame.original
        return {
            "image": self.image,
            "model": self.model,
            "width": width,
            "height": height,
            "state": self.state,
            "ahead": ahead,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "error": self.error,
        }


class Encodings:
    """A thread that encodes what it is given, in order, and what it has encoded lately.

    Args:
        models: that images are encoded with.
        max_pixels: larger images are refused; ``None`` takes the usual limit.
    """

    def __init__(self, models: Sequence[Sam], max_pixels: int | None = None) -> None:
        self.models = models
        self._max_pixels = max_pixels
        self._kept: OrderedDict[tuple[int, str], Encoding] = OrderedDict()
        self._queue: Queue[Encoding | None] = Queue()
        self._count = 0
        self._lock, self._reading = threading.Lock(), threading.Lock()
        # The first image would otherwise find another number of threads in here than in the main thread.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    def submit(self, model: int, data: bytes) -> Encoding:
        """Take an image file; one that is known already is not encoded again.

        Raises:
            ImageError: it cannot be read. QueueFull: too many images wait.
        """
        key = (model, hashlib.sha256(data).hexdigest()[:_ID_LENGTH])
        with self._reading:  # decoded one at a time, for the sake of memory
            with self._lock:
                known = self._kept.get(key)
                if known is not None and known.state != FAILED:
                    self._kept.move_to_end(key)
                    return known
                self._refuse_more()
            loaded = self._read(data)
            sam = self.models[model]
            pixel_values, frame = preprocess(sam.model, loaded.pixels)
            pixels = loaded.pixels if sam.zoom else None
            with self._lock:
                self._count += 1
                found = Encoding(key[1], model, self._count, frame, pixel_values, loaded.notes, data, pixels)
                self._kept[key] = found
                self._forget()
                self._queue.put(found)
        return found

    def _read(self, data: bytes) -> LoadedImage:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(data)
            try:
                return open_image(path, max_pixels=self._max_pixels)
            except ImageError as error:  # the name of a temporary file tells nobody anything
                raise ImageError("the image", error.reason) from error

    def crop(self, one: Encoding, window: Window) -> Encoding:
        """A part of an image, encoded in its turn as a picture of its own.

        Raises:
            QueueFull: too many images wait.
        """
        height, width = one.frame.original
        if window == (0, 0, width, height):
            return one
        if one.pixels is None:  # of a model that does not answer on crops unless it is told to
            with self._reading:
                one.pixels = self._read(one.data).pixels
        with self._lock:
            known = one.crops.get(window)
            if known is not None and known.state != FAILED:
                one.crops.move_to_end(window)
                return known
            self._refuse_more()
            pixel_values, frame = preprocess(self.models[one.model].model, cut(one.pixels, window))
            self._count += 1
            found = Encoding(one.image, one.model, self._count, frame, pixel_values, ())
            one.crops[window] = found
            if len(one.crops) > KEPT_CROPS:
                one.crops.popitem(last=False)
            self._queue.put(found)
        return found

    def _refuse_more(self) -> None:
        if self._queue.qsize() >= MOST_WAITING:
            raise QueueFull(f"{MOST_WAITING} images wait to be encoded already; try again later")

    def find(self, model: int, image: str) -> Encoding | None:
        """An image that was sent and is still kept."""
        with self._lock:
            found = self._kept.get((model, image))
            if found is not None:
                self._kept.move_to_end((model, image))
            return found

    def ahead(self, one: Encoding) -> int:
        """How many images are encoded before this one."""
        if one.state != WAITING:
            return 0
        with self._lock:
            every = [other for image in self._kept.values() for other in (image, *image.crops.values())]
            busy = [other for other in every if other.state in (WAITING, ENCODING)]
        return sum(other.number < one.number for other in busy)

    def close(self) -> None:
        """End the thread, once the image at hand is encoded."""
        self._queue.put(None)
        self._thread.join(timeout=60)

    def _forget(self) -> None:
        finished = [key for key, one in self._kept.items() if one.state in (READY, FAILED)]
        for key in finished[: max(0, len(self._kept) - KEPT * len(self.models))]:
            del self._kept[key]

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while (one := self._queue.get()) is not None:
            one.state, began = ENCODING, time.perf_counter()
            try:
                assert one.pixel_values is not None  # noqa: S101 - every encoding comes with them
                one.embedding = embed(self.models[one.model].model, one.pixel_values)
                one.seconds, one.state = time.perf_counter() - began, READY
            except Exception as error:  # noqa: BLE001 - the thread's boundary: who waits for the image is told
                one.error, one.state = f"it could not be encoded ({error})", FAILED
            one.pixel_values = None
            one.done.set()
