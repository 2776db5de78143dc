"""``saqsam verify``: is a packed file whole, and does it keep every promise of the format?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from saqsam.cli.arguments import JsonOption
from saqsam.cli.output import print_json, print_table
from saqsam.errors import CheckpointError, InvariantError


def verify(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A packed model, or a directory of save_pretrained.")
    ],
    json: JsonOption = False,
) -> None:
    """Audit a packed file: exit code 0 if every check passes, 4 if one fails, 3 if the file is damaged."""
    from saqsam.cli.packed import packed_argument
    from saqsam.cli.progress import progress
    from saqsam.pack.verify import verify_file

    try:
        path = packed_argument(file, "verify")
        with progress() as show:
            report = verify_file(path, show)
    except CheckpointError as error:
        if json:
            failure = {
                "name": "the file is whole and readable",
                "ok": False,
                "site": "",
                "detail": str(error),
            }
            print_json({"file": file, "ok": False, "checks": [failure], "failed": [failure]})
        raise
    checks: list[dict[str, Any]] = [asdict(check) for check in report.checks]
    failed = [check for check in checks if not check["ok"]]
    if json:
        print_json({"file": str(path), "ok": report.ok, "checks": checks, "failed": failed})
    else:
        rows = [
            ["ok" if c["ok"] else "FAILED", c["name"], f"{c['site']} {c['detail']}".strip()] for c in checks
        ]
        verdict = "every check passed" if report.ok else f"{len(failed)} of {len(checks)} checks failed"
        print_table(f"{path}: {verdict}", ["", "check", "detail"], rows, right=3)
    if not report.ok:
        first = failed[0]
        raise InvariantError(
            f"{path}: {first['site']}".rstrip(": "), f"'{first['name']}' does not hold: {first['detail']}"
        )
