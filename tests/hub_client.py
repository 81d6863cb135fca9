"""A process that talks to a hub: huggingface_hub reads its environment once, at its import.

One process runs many commands, since starting one costs seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LOOP = """
import contextlib, importlib, io, json, sys
for line in sys.stdin:
    package, arguments = json.loads(line)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if package:
                importlib.import_module(package).main(arguments)
            exec(arguments[0])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class HubClient:
    """Runs commands in a process of its own, whose hub is `url` and whose cache is `home`."""

    def __init__(self, url: str, home: Path, *, token: str = "", **environment: str) -> None:
        settings = {
            "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_ETAG_TIMEOUT": "5", "NO_PROXY": "*",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]),
                                           os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            env=os.environ | settings | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> HubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(60)

    def fidediff(self, *arguments: object) -> Done:
        return self._run("fidediff_model.cli", arguments)

    def trajbuild(self, *arguments: object) -> Done:
        return self._run("trajectory_builder.cli", arguments)

    def python(self, code: str) -> Done:
        """Run a program, which must not fail."""
        return self._run("", (code,))

    def _run(self, package: str, arguments: tuple) -> Done:
        self.process.stdin.write(json.dumps([package, [str(a) for a in arguments]]) + "\n")
        self.process.stdin.flush()
        return Done(*json.loads(self.process.stdout.readline()))
