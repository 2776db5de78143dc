"""``saqsam inspect``: what a model quantizes, how, and what stays float and why."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from saqsam.cli.arguments import JsonOption, Model
from saqsam.cli.output import print_json, print_lines, print_table, size_text


def inspect(
    model: Model,
    sites: Annotated[
        bool, typer.Option("--sites", help="Show every site and every float part, not only how many.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show every quantized site with its grid and range, and what stays float with the reason."""
    from saqsam import api

    loaded = api.load(model)
    record = loaded.inspect()
    if json:
        print_json({"model": model, "bits": loaded.bits, **record})
        return
    print_lines([loaded.summary()])
    kept = record["kept_float"]
    steps = [[step["path"], step["reason"]] for step in record["float_steps"]]
    if not sites:
        if record["sites"]:
            print_table("quantized", ["role", "grid", "bits", "sites"], _counts(record["sites"]), right=2)
        print_table("kept float", ["reason", "parts", "size"], _reasons(kept), right=1)
        print_table("steps without parameters that stay float", ["step", "reason"], steps, right=2)
        print_lines(["--sites shows every site and part"])
        return
    if record["sites"]:
        print_table("quantized", SITE_COLUMNS, [_site_row(site) for site in record["sites"]], right=3)
    rows = [[part["path"], part["reason"], size_text(part["bytes"])] for part in kept]
    print_table("kept float", ["path", "reason", "size"], rows, right=2)
    print_table("steps without parameters that stay float", ["step", "reason"], steps, right=2)


SITE_COLUMNS = ["site", "role", "grid", "bits", "min", "max", "scale", "zero point"]


def _site_row(site: dict[str, Any]) -> list[str]:
    return [
        site["path"],
        site["role"],
        str(site["grid"]),
        str(site["bits"]),
        *(_number(site[key]) for key in ("min", "max", "scale", "zero_point")),
    ]


def _number(value: Any) -> str:
    """A scalar, or the span of a per-channel list."""
    if isinstance(value, list):
        return f"{min(value):.4g} … {max(value):.4g}" if value else "–"
    return "–" if value is None else f"{value:.4g}"


def _counts(sites: list[dict[str, Any]]) -> list[list[str]]:
    counted = Counter((site["role"], str(site["grid"]), str(site["bits"])) for site in sites)
    return [[*key, str(count)] for key, count in sorted(counted.items())]


def _reasons(parts: list[dict[str, Any]]) -> list[list[str]]:
    """How many parts stay float for each reason, and their bytes; the largest first."""
    count: Counter[str] = Counter(part["reason"] for part in parts)
    size: Counter[str] = Counter()
    for part in parts:
        size[part["reason"]] += part["bytes"]
    return [[reason, str(count[reason]), size_text(total)] for reason, total in size.most_common()]
