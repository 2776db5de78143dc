"""Words on pictures: beside what they name, inside the picture, never over one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from saqsam.visible import visible

Colour = tuple[int, int, int]
_GAP = 4


class Labels:
    """Writes labels on one picture; one that finds no free place near its object is left out."""

    def __init__(self, picture: Image.Image) -> None:
        self._pen, self._size = ImageDraw.Draw(picture), picture.size
        self._font = ImageFont.load_default(12)
        self._taken: list[tuple[float, float, float, float]] = []

    def write(self, text: str, box: Sequence[float], colour: Colour) -> bool:
        """Write ``text`` at ``box`` ``x0, y0, x1, y1`` in pixels of the picture; whether there was room."""
        text = visible(text)
        left, top, right, bottom = self._pen.textbbox((0, 0), text, font=self._font)
        width, height = self._size
        for x, y in self._places(box, right - left, bottom - top):
            x, y = max(0, min(x, width - 1 - (right - left))), max(0, min(y, height - 1 - (bottom - top)))
            place = (x, y, x + right - left, y + bottom - top)
            if not any(_meet(place, other) for other in self._taken):
                self._taken.append(place)
                self._pen.rectangle(place, fill="black")
                light = tuple((value + 255) // 2 for value in colour)  # dark blue on black cannot be read
                self._pen.text((x - left, y - top), text, fill=light, font=self._font)
                return True
        return False

    @staticmethod
    def _places(box: Sequence[float], wide: float, high: float) -> Iterator[tuple[float, float]]:
        """Inside at the top, above, below, at the right, and further down the left side."""
        x0, y0, x1, y1 = box
        yield x0 + 2, y0 + 1
        yield x0, y0 - high - 2
        yield x0, y1 + 2
        yield x1 + 2, y0
        yield x0 - wide - 2, y0
        for step in range(1, 4):
            yield x0 + 2, y0 + 1 + step * (high + 2)


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
    return not apart


def wrapped(text: str, width: int, size: int = 14) -> list[str]:
    """Lines of ``text`` that are at most ``width`` pixels wide, broken at spaces where there are some."""
    font = ImageFont.load_default(size)
    lines: list[str] = []
    line = ""
    for word in visible(text).split(" "):
        grown = f"{line} {word}" if line else word
        if font.getlength(grown) <= width:
            line = grown
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > width and len(line) > 1:
            count = len(line) - 1
            while count > 1 and font.getlength(line[:count]) > width:
                count -= 1
            lines.append(line[:count])
            line = line[count:]
    return [*lines, line]


def with_key(picture: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The picture with a strip below it that says what its colours mean."""
    font, row = ImageFont.load_default(12), 18
    places: list[tuple[int, int]] = []
    x = y = 0
    for text, _ in entries:
        wide = row + round(font.getlength(visible(text))) + 2 * _GAP
        if x and x + wide > picture.width:
            x, y = 0, y + row
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (picture.width, picture.height + _GAP + (y + row if entries else 0)), "white")
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for (text, colour), (left, top) in zip(entries, places, strict=True):
        top += picture.height + _GAP
        pen.rectangle((left, top + 2, left + row - 2 * _GAP, top + row - 2 * _GAP + 2), fill=colour)
        pen.text((left + row - _GAP, top), visible(text), fill="black", font=font)
    return sheet
