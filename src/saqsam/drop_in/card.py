"""The ``README.md`` of a saved directory: what the model is, and what it needs to be loaded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from saqsam.drop_in.names import METHOD, WEIGHTS
from saqsam.drop_in.settings import architecture_of
from saqsam.families.licence import Licence
from saqsam.families.registry import family_of

if TYPE_CHECKING:
    from saqsam.sam import Sam


def model_card(sam: Sam, file_bytes: int) -> str:
    """Markdown for a quantized model.

    Args:
        sam: what is saved.
        file_bytes: size of the packed file.
    """
    facts = sam.inspect()
    recipe = sam.quantization
    name = "" if recipe is None else recipe.name
    return _CARD.format(
        method=METHOD,
        weights=WEIGHTS,
        model_class=architecture_of(sam.model),
        processor=family_of(sam.model).processor,
        recipe=name,
        bits=sam.bits,
        megabytes=file_bytes / 1e6,
        float_megabytes=facts["float_bytes"] / 1e6,
        sites=_sites(facts["sites"]),
        kept=_kept(facts["kept_float"], facts["float_steps"]),
        figures=_figures(facts["records"].get("figures")),
        **_licence(family_of(sam.model).licence),
    )


def _licence(licence: Licence | None) -> dict[str, str]:
    """What the card says of a licence in its header, and in a section; nothing where it asks nothing."""
    if licence is None:
        return {"header": "", "licence": ""}
    return {
        "header": f"license: other\nlicense_name: {licence.label}\nlicense_link: {licence.link}\n",
        "licence": f"\n## Licence\n\nMade of weights under the [{licence.name}]({licence.link}), which "
        f"covers this model too. {licence.asks}.\n",
    }


def _sites(rows: list[dict[str, object]]) -> str:
    counted = Counter((row["role"], row["grid"], row["bits"]) for row in rows)
    lines = [
        f"| {role} | {grid} | {bits} | {count} |"
        for (role, grid, bits), count in sorted(counted.items(), key=str)
    ]
    return "\n".join(["| tensor | grid | bits | sites |", "|---|---|---|---|", *lines])


def _kept(parts: list[dict[str, object]], steps: list[dict[str, str]]) -> str:
    counted = Counter(str(part["reason"]) for part in parts)
    lines = [f"- {count} × {reason}" for reason, count in counted.most_common()]
    return "\n".join([*lines, *(f"- {step['path']}: {step['reason']}" for step in steps)])


def _figures(figures: object) -> str:
    if not isinstance(figures, dict) or not figures:
        return (
            "No figures were recorded with this model: evaluate it on your own images before you rely on it."
        )
    return "\n".join(f"- {name}: {value}" for name, value in figures.items())


_CARD = """---
library_name: transformers
pipeline_tag: mask-generation
tags: [segment-anything, quantized, {method}]
{header}---

# A Segment Anything Model in {bits}

Quantized with saqsam by the recipe `{recipe}`. Its weights are integers at their true width:
{megabytes:.2f} MB, against {float_megabytes:.2f} MB as float32.

## Load it

**`import saqsam` first.** It teaches `transformers` this format:

```python
import saqsam  # without this line the model does not load
from transformers import {processor}, {model_class}

model = {model_class}.from_pretrained("this directory")
processor = {processor}.from_pretrained("this directory")
```

**Without `import saqsam`** transformers warns `Unknown quantization type, got {method}` and
`we will skip the quantization`, then stops with `no file named model.safetensors`. That error means that
saqsam is missing. Do not rename `{weights}` to please it: transformers would then find no weight it knows,
warn once, and **segment with random weights**.

`saqsam.load("this directory")` gives the same masks; `saqsam verify`, `inspect` and `evaluate` take the
directory too. Every byte of `{weights}` is under a hash that is checked before the model is built.

## What is quantized

{sites}

## What stayed float

{kept}

## Figures

{figures}
{licence}"""
