"""What the demo asks of photographs: those that scikit-image's wheel brings, or the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path

from saqsam.errors import UsageError

Box = tuple[float, ...]
"""XYXY."""
Click = tuple[float, ...]
"""x, y."""


@dataclass(frozen=True)
class Asked:
    """One object of a photograph, in pixels of it as displayed.

    Attributes:
        name: what it is, written beside its mask; empty: only its score is.
        box: XYXY around it, or None.
        click: x, y of a pixel on it, if there is no box.
    """

    name: str
    box: Box | None = None
    click: Click | None = None


@dataclass(frozen=True)
class Photograph:
    """A picture and what is asked about it.

    Attributes:
        name: of the picture that is written.
        file: where it is: a path, or a file of an installed package.
        objects: at least one.
    """

    name: str
    file: Traversable
    objects: tuple[Asked, ...]

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A path of the file, also where its package is installed as an archive."""
        if isinstance(self.file, Path):
            yield self.file
        else:
            with as_file(self.file) as path:
                yield path


def _asked(boxes: dict[str, Box], clicks: dict[str, Click]) -> tuple[Asked, ...]:
    by_box = [Asked(name, box=box) for name, box in boxes.items()]
    return (*by_box, *(Asked(name, click=click) for name, click in clicks.items()))


PHOTOGRAPHS: dict[str, tuple[Asked, ...]] = {
    "astronaut.png": _asked(
        {"head": (150, 12, 300, 188), "shuttle": (355, 0, 470, 285), "patch": (132, 347, 208, 424)},
        {"helmet": (350, 460)},
    ),
    "chelsea.png": _asked(
        {"cat": (0, 0, 370, 300), "eye": (133, 84, 207, 150), "nose": (226, 224, 294, 266)},
        {"other eye": (323, 138)},
    ),
    "coffee.png": _asked(
        {"saucer": (77, 68, 480, 390), "cup": (172, 16, 410, 310), "spoon": (323, 230, 407, 325)},
        {"coffee": (280, 160)},
    ),
    "rocket.jpg": _asked({"fairing": (308, 125, 338, 185)}, {"rocket": (323, 280)}),
    "coins.png": _asked(
        {
            "coin 1": (22, 34, 67, 74),
            "coin 2": (135, 28, 178, 73),
            "coin 3": (307, 16, 366, 72),
            "coin 4": (245, 95, 298, 144),
            "coin 5": (188, 170, 238, 218),
            "coin 6": (315, 156, 381, 218),
            "coin 7": (146, 236, 203, 289),
        },
        {"coin 8": (50, 260)},
    ),
    "camera.png": _asked(
        {"tower": (408, 110, 440, 192), "dome": (345, 170, 400, 200), "camera": (255, 138, 325, 182)},
        {"photographer": (100, 250)},
    ),
}
"""Objects by the file in ``skimage/data``.

All of these lie in the wheel, so that nothing is downloaded, and are in the public domain, CC0 or without
known copyright restrictions, so that pictures made of them can be shown.
"""


def installed_photographs() -> list[Photograph]:
    """The photographs that an installed scikit-image brings; none where it is not installed."""
    try:
        folder = files("skimage").joinpath("data")
    except ImportError:
        return []
    return [
        Photograph(name.partition(".")[0], folder.joinpath(name), objects)
        for name, objects in PHOTOGRAPHS.items()
        if folder.joinpath(name).is_file()
    ]


def own_photograph(image: Path, boxes: Sequence[Box], clicks: Sequence[Click]) -> Photograph:
    """The user's own picture; each box and each click asks for an object.

    Raises:
        UsageError: nothing is asked.
    """
    if not boxes and not clicks:
        raise UsageError(f"--image {image}: nothing to segment; give --box X0,Y0,X1,Y1 or --point X,Y")
    objects = [Asked("", box=box) for box in boxes] + [Asked("", click=click) for click in clicks]
    return Photograph(image.stem, image, tuple(objects))
