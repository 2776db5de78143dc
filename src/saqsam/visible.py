"""Names for people to read: what cannot be seen in them is spelled out."""

from __future__ import annotations

import re
import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"})
"""Unicode categories: controls, marks such as right-to-left override, half characters, kinds of spaces."""
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks of other categories that show nothing."""
_SEEN = frozenset(" \u3000")
_BEYOND_PRINTABLE_ASCII = re.compile(r"[^ -~]")


def visible(text: str, *, keep: str = "") -> str:
    r"""Text in which characters that show nothing, or that turn text around, appear as ``\u202e``.

    A file name may hold a mark that writes what follows from right to left, so that a program's name ends
    like a picture's; or a no-break space, so that a name typed anew is not found; or a terminal's escape.

    Args:
        text: a name, or a message with names in it.
        keep: characters left as they are, such as line ends of a text of several lines.
    """
    return _BEYOND_PRINTABLE_ASCII.sub(lambda one: one[0] if one[0] in keep else _shown(one[0]), text)


def _shown(one: str) -> str:
    unseen = unicodedata.category(one) in _UNSEEN or one in _BLANK
    return one.encode("unicode_escape").decode("ascii") if unseen and one not in _SEEN else one
