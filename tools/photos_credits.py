"""Write who made the photographs that ``small`` was trained on: one line each, licence and address.

python tools/photos_credits.py PHOTOS src/saqsam/shipped/assets/small-photographs.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path

from saqsam.files import atomic_write


def photographs(directory: Path) -> list[tuple[str, str, str, str]]:
    """File, licence, source, and the address of the original or its author, of every photograph."""
    rows = []
    for name in ("instances.json", "backgrounds.json"):
        file = directory / name
        document = json.loads(file.read_text()) if file.exists() else {"images": [], "licenses": []}
        licences = {entry["id"]: entry["name"] for entry in document["licenses"]}
        for record in document["images"]:
            source = record["source"].split(", image from")[0].split(", github")[0]
            origin = record.get("flickr_url") or record.get("author") or ""
            rows.append((record["file_name"], licences[record["license"]], source, origin))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="images/, instances.json, perhaps backgrounds.json")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("file", "licence", "source", "original"))
    table.writerows(photographs(options.photos))
    with atomic_write(options.file) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
