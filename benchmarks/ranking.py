"""Who wins, and whether the difference can be told: reads the rows that ``reconstruction.py`` measured.

    python benchmarks/reconstruction.py --models small --bits w8a8 w6a6 w4a4 w3a3 w4a8 --seeds 5 \\
        --recipes rtn mse ptq4sam-l ahcptq saq-sam-star saq-sam best-closed-form best --images 200 \\
        --coco coco50 --out benchmarks/results/ranking.csv
    python benchmarks/ranking.py benchmarks/results/ranking.csv --column coco_mIoU

For each width: mean over the draws of the calibration set with its 95 % interval (Student's t), best first,
and the difference to the first, draw by draw, with its interval. Where that interval holds zero, the draws
cannot tell the two apart. The test pictures are the same for all draws: intervals are of the draw alone.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Of Student's t, two-sided 95 %, by degrees of freedom."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval; of one value, infinite."""
    mean, free = statistics.mean(values), len(values) - 1
    if free < 1:
        return mean, float("inf")
    return mean, QUANTILES.get(free, 2.262) * statistics.stdev(values) / len(values) ** 0.5


def shown(found: tuple[float, float]) -> str:
    mean, half = found
    return f"{mean:.4f}" if half == float("inf") else f"{mean:.4f} ± {half:.4f}"


def ranking(path: Path, column: str, prompts: str) -> Iterator[str]:
    """A Markdown table of the rows of a file."""
    by_bits: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["prompts"] == prompts and row.get(column):
                by_bits[row["bits"]][row["recipe"]][row["seed"]] = float(row[column])
    yield f"| bits | recipe | {column}, {prompts} | draws | less than the first | can be told |"
    yield "|---|---|---|---|---|---|"
    for bits, recipes in by_bits.items():
        ordered = sorted(recipes.items(), key=lambda item: -statistics.mean(item[1].values()))
        first = ordered[0][1]
        for name, draws in ordered:
            cells = [bits, f"`{name}`", shown(interval(list(draws.values()))), str(len(draws))]
            common = sorted(first.keys() & draws.keys())
            if draws is first or not common:
                yield f"| {' | '.join(cells)} | – | – |"
                continue
            less = interval([first[draw] - draws[draw] for draw in common])
            told = "one draw" if less[1] == float("inf") else "yes" if abs(less[0]) > less[1] else "no"
            yield f"| {' | '.join(cells)} | {shown(less)} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("--column", default="coco_mIoU", help="such as mIoU, AP, agreement, coco_agreement")
    parser.add_argument("--prompts", default="boxes", choices=("boxes", "clicks"))
    given = parser.parse_args()
    print("\n".join(ranking(given.rows, given.column, given.prompts)))


if __name__ == "__main__":
    main()
