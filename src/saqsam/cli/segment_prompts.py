"""The prompts of ``saqsam segment`` on one image: boxes, clicks by object, and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from saqsam.cli.arguments import check_file, numbers
from saqsam.errors import UsageError


@dataclass(frozen=True)
class PromptOptions:
    """What is asked about one image."""

    box: Annotated[
        list[str] | None,
        typer.Option("--box", help="A box in pixels; each one is an object.", metavar="X0,Y0,X1,Y1"),
    ] = None
    point: Annotated[
        list[str] | None,
        typer.Option(
            "--point",
            help="A click on the object. All clicks mean one object, or N:X,Y says which.",
            metavar="[N:]X,Y",
        ),
    ] = None
    not_point: Annotated[
        list[str] | None,
        typer.Option("--not-point", help="A click beside the object.", metavar="[N:]X,Y"),
    ] = None
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            "--mask",
            help="An earlier mask of the object: a picture as --out writes it, or logits (.npy) of one or "
            "more objects.",
            metavar="FILE",
        ),
    ] = None

    def __bool__(self) -> bool:
        return bool(self.box or self.point or self.not_point or self.mask)

    def arguments(self) -> dict[str, Any]:
        """Boxes, points and labels as arguments of ``Sam.segment``; masks are read once the model is there.

        Raises:
            UsageError: nothing is asked, or clicks that belong to no object.
        """
        boxes = [numbers(text, 4, "--box") for text in self.box or ()]
        for path in self.mask or ():
            check_file(path, "--mask")
        if not boxes and not self.point and not self.mask:
            raise UsageError(
                "nothing to segment: give at least one --box X0,Y0,X1,Y1, --point X,Y or --mask FILE"
            )
        prompts: dict[str, Any] = {"boxes": boxes} if boxes else {}
        clicks = self._clicks(len(boxes))
        if clicks:
            prompts["points"] = [[(x, y) for x, y, _ in own] for own in clicks]
            prompts["labels"] = [[label for _, _, label in own] for own in clicks]
        return prompts

    def _clicks(self, boxes: int) -> list[list[tuple[float, float, int]]]:
        """The clicks of each object; nothing where there is no click at all."""
        given = [(text, "--point", 1) for text in self.point or ()]
        given += [(text, "--not-point", 0) for text in self.not_point or ()]
        by_object: dict[int, list[tuple[float, float, int]]] = {}
        for text, option, label in given:
            number, _, place = text.rpartition(":")
            if number and not (number.isascii() and number.isdigit() and 1 <= int(number) <= 10_000):
                raise UsageError(f"{option} {text}: expected X,Y or N:X,Y with N from 1, such as 2:120,90")
            if not number and boxes > 1:
                raise UsageError(
                    f"{option} {text}: there are {boxes} boxes; say which object it refines, such as 1:{text}"
                )
            x, y = numbers(place, 2, option)
            by_object.setdefault(int(number or 1), []).append((x, y, label))
        if not by_object:
            return []
        count = max(boxes, *by_object)
        missing = [number for number in range(1, count + 1) if number not in by_object and number > boxes]
        if missing:
            raise UsageError(f"--point: object {missing[0]} has no click; number objects from 1 without gaps")
        if boxes and count > boxes:
            raise UsageError(
                f"--point {count}:...: there are {boxes} boxes; give each object a --box, or none"
            )
        return [by_object.get(number, []) for number in range(1, count + 1)]
