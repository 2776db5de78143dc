"""Write docs/recipes.md from the recipe dataclasses and the shipped recipes.

Run from anywhere: ``python tools/write_recipe_docs.py``. A test fails while the page is out of date.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from saqsam.recipe import Recipe, list_recipes
from saqsam.recipe.schema import KeyHelp, describe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"

INTRODUCTION = """# Recipes

<!-- Written by tools/write_recipe_docs.py from src/saqsam/recipe/fields.py; do not edit by hand. -->

A recipe is everything that decides how a float SAM becomes a quantized one. It is data: one of the recipes
below, a YAML file, or either of them with single keys changed.

```
saqsam recipe list
saqsam recipe show saq-sam-star --bits w6a6
saqsam recipe show saq-sam-paper --diff saq-sam
saqsam recipe show mse --set encoder.weights=8 > mine.yaml
saqsam quantize nano --recipe mine.yaml --set clip.method=pcc --images photos --out nano.safetensors
saqsam quantize nano --recipe saq-sam-star --only encoder --images photos --out nano.safetensors
saqsam quantize nano --recipe best --images photos --dry-run
```

In Python, `load_recipe("mse", bits="w6a6", settings={"clip.method": "pcc", "encoder": {"weights": 8}})`;
texts such as `["clip.method=pcc"]` do as well.

`NAME-wXaY` or `--bits wXaY` sets weight and activation bits (2 to 8) of encoder and decoder alike; `--set
encoder.weights=8` and its like set them apart. Settings win over bits. A packed file holds its whole recipe
and the recipe's sha256.

A YAML file needs `name`; every other key has the default below. Unknown keys, repeated keys, tags, and
values of the wrong type are errors that name the line or the key. The words of the published code are
understood, see [coming from the official code](official.md).

`--only encoder` leaves the mask decoder float, `--only decoder` the image encoder. `--dry-run` says what it
will take.

## Which pictures

`--images DIR` is searched with the folders in it; hidden files are passed over. `calibration.images` of
them are drawn with `calibration.seed`. `quantize` says how many it uses of how many it saw, and where it
looked, and notes what looks wrong: conversions such as 16 bits to 8, pictures that are nearly black (12-bit
data in 16 bits) or of one colour, and copies. The same stands in `--json` under `calibration`; in Python
the logger `saqsam` says it, and `quantize(...).log.calibration` has it. Python also takes a list of files,
and a plain `transformers.SamModel` as the model.
"""

OVERRIDES = """## Exceptions for single sites

The keys of `overrides` are shell-style patterns on the full name of a site, as `saqsam inspect --sites` shows
them. Where several patterns match a site, the last one wins. `saqsam inspect` also lists what no recipe
quantizes, each with its reason: parts with parameters (`kept_float` with `--json`), and steps without any,
such as softmax (`float_steps`).

```yaml
overrides:
  "vision_encoder.layers.0.*:weight": {bits: 8}
  "mask_decoder.transformer.final_attn_token_to_image*": {ranges: {method: percentile, percentile: 0.999}}
  "vision_encoder.neck.conv2:*": {keep_float: true}
```

On the command line: `--set 'overrides.vision_encoder.layers.0.*:weight.bits=8'`.
"""


def recipe_docs() -> str:
    """The whole page as Markdown."""
    names = [f"| `{recipe.name}` | {_cell(recipe.description)} |" for recipe in list_recipes()]
    keys = [_row(row) for row in describe(Recipe)]
    parts = [
        INTRODUCTION,
        "## Shipped recipes\n",
        "| recipe | what it does |\n|---|---|\n" + "\n".join(names) + "\n",
        "## Keys\n",
        "| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(keys) + "\n",
        OVERRIDES,
    ]
    return "\n".join(parts)


def _row(row: KeyHelp) -> str:
    if row.default is dataclasses.MISSING:
        default = "required"
    elif isinstance(row.default, dict):
        default = ""
    elif isinstance(row.default, list):
        default = f"{len(row.default)} values, {row.default[0]} to {row.default[-1]}"
    else:
        default = f"`{json.dumps(row.default)}`"
    return f"| `{row.key}` | {_cell(row.type)} | {default} | {_cell(row.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(recipe_docs(), encoding="utf-8")
