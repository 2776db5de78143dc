"""Processes like a user's, without seconds of imports: copies of one that has imported and done no more.

They share nothing with the tests' own process, and all begin in the very same state.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SERVER = """
import json, os, sys, traceback

exec(sys.argv[1])
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in ((1, asked["out"]), (2, asked["err"])):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            sys.argv = ["-c", *asked["arguments"]]
            exec(asked["code"], {"__name__": "__main__"})
            code = 0
        except SystemExit as ended:
            code = 0 if ended.code is None else ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


class Launcher:
    """Starts programs one after the other; from :func:`launcher`."""

    def __init__(self, server: subprocess.Popen[str], directory: Path) -> None:
        self.server = server
        self.out, self.err = directory / "out.txt", directory / "err.txt"

    def start(self, code: str, arguments: Sequence[str] = ()) -> int:
        """Start Python code with ``sys.argv[1:]``; its process id. :meth:`wait` must follow."""
        asked = {"code": code, "arguments": list(arguments), "out": str(self.out), "err": str(self.err)}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def wait(self) -> subprocess.CompletedProcess[str]:
        """The end of what was started; the return code is negative if a signal ended it."""
        code = self._answer()
        return subprocess.CompletedProcess([], code, self.out.read_text(), self.err.read_text())

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Start, and wait for the end."""
        self.start(code, arguments)
        return self.wait()

    def _answer(self) -> int:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the process that starts others has ended"
        return int(line)


@contextmanager
def launcher(imports: str, directory: Path) -> Iterator[Launcher]:
    """A process that has run the statements ``imports`` and starts copies of itself.

    Args:
        imports: what every program would import first.
        directory: for what the programs print.
    """
    command = [sys.executable, "-c", SERVER, imports]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Launcher(server, directory)
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(60) == 0
