"""A worker process, as its parent sees it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Optional, Type

from fairseq_el.bench.methods import Method
from fairseq_el.bench.settings import Settings
from fairseq_el.errors import FairseqElError

_LAST_LINES = 15


class WorkerProcess:
    """A process that runs one program: :meth:`load` comes first. A context manager, which ends it.

    Several can be made before the first is loaded, so that they import their libraries at the same time.

    Args:
        settings, method: of the program.
        name: for messages and for the file of what the process writes to standard error.
        logs: directory for that file.
    """

    def __init__(self, settings: Settings, method: Method, name: str, logs: Path):
        self.name = name
        self.loaded_bytes = 0
        self._settings, self._method = settings, method
        self._log = logs / f"{name.replace('/', '-')}.log"
        threads = str(settings.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if method.in_python:
            environment["FAIRSEQ_EL_NATIVE"] = "0"
        if settings.device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fairseq_el.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
                encoding="utf-8",
            )

    def load(self) -> WorkerProcess:
        """Loads the program.

        Raises:
            FairseqElError: it could not be loaded.
        """
        self.loaded_bytes = self.ask("load", settings=self._settings.as_dict(), method=asdict(self._method))[
            "loaded_bytes"
        ]
        return self

    def ask(self, command: str, **arguments: Any) -> Dict[str, Any]:
        """Sends a command and waits for the answer.

        Raises:
            FairseqElError: the worker reports an error, or has died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise FairseqElError(self._obituary(command))
        reply: Dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise FairseqElError(f"{self.name}: {reply['error']}")
        return reply

    def _obituary(self, command: str) -> str:
        status = self._process.wait()
        how = f"with exit status {status}" if status >= 0 else f"by signal {-status}"
        if status == -9:
            how += ", which is what the system sends when memory runs out"
        last = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        said = "\n".join(last) or "(nothing)"
        return f"the worker of {self.name} died {how} during `{command}`. The last lines that it wrote:\n{said}"

    def close(self) -> None:
        """Ends the process, at once if it does not end by itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()
