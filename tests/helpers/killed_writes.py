"""A program that is killed at every write in turn. Run as a script; see tests/conversion/test_killed.py.

    python killed_writes.py 'OUT OLD ARGUMENTS...' ...

runs ``fairseq-el ARGUMENTS`` in a fork, once for each place at which it opens, makes, renames, links or (twice) removes
a file, and kills it there with half of the file written. Then it runs once more, not killed. All this twice: with
nothing at OUT before, and with a copy of OLD; and for each argument. What is found at OUT, as a digest of all its bytes
(null for nothing), before the first run, after each kill, and after each further run, is printed as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import fairseq_el.cli

HALF = b"half of wh"
REMOVALS = ("os.remove", "os.rmdir")


def digest(path: Path) -> str | None:
    if not path.exists():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    found = hashlib.sha256()
    for file in files:
        found.update(str(file.relative_to(path)).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


class Killer:
    """An audit hook that ends the process at its n-th write, and says where that was."""

    def __init__(self, at: int, where: Path, report: Path):
        self.left, self.where, self.report, self.busy = at, str(where.resolve()), report, False
        self.removals = 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.busy or event not in ("open", "os.mkdir", "os.rename", "os.link", *REMOVALS):
            return
        path, flags = os.path.abspath(str(arguments[0])), arguments[2] if event == "open" else os.O_WRONLY
        if not path.startswith(self.where) or not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
            return
        self.removals += event in REMOVALS
        if self.removals > 2:  # the rest is like these
            return
        self.left -= 1
        if self.left == 0:
            self.busy = True
            self.report.write_text(f"{event} {path[len(self.where) + 1 :]}")
            if event == "open":
                Path(path).write_bytes(HALF)
            os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: list[str], killer: Killer | None) -> int:
    """Exit status in a fork; negative for a signal."""
    child = os.fork()
    if child == 0:
        if killer is not None:
            sys.addaudithook(killer)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            os._exit(fairseq_el.cli.main(arguments))
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def tell_of_safetensors() -> None:
    """They are written in Rust, which tells no audit hook."""
    import safetensors.torch  # here, because Killer is used where it is not installed

    save_file = safetensors.torch.save_file

    def told(tensors, path, *rest):
        sys.audit("open", str(path), "wb", os.O_WRONLY)
        save_file(tensors, path, *rest)

    safetensors.torch.save_file = told


def kill_at_every_write(out: Path, old: Path | None, arguments: list[str]) -> dict:
    runs: list[dict] = []
    while True:
        if old is not None:
            (shutil.copytree if old.is_dir() else shutil.copyfile)(old, out)
        with tempfile.NamedTemporaryFile() as report:
            killed = run(arguments, Killer(len(runs) + 1, out.parent, Path(report.name)))
            if killed != -signal.SIGKILL:
                whole = digest(out)
                remove(out)
                return {"old": old and digest(old), "status": killed, "whole": whole, "runs": runs}
            at = Path(report.name).read_text()
        left = digest(out)
        again = run(arguments, None)
        names = sorted(path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}"))
        runs.append({"at": at, "left": left, "again": again, "whole": digest(out), "hidden": names})
        remove(out)


def remove(path: Path) -> None:
    (shutil.rmtree if path.is_dir() else os.unlink)(path)


def main(cases: list[str]) -> None:
    tell_of_safetensors()
    logging.disable()
    found = []
    for case in cases:
        out, old, *arguments = shlex.split(case)
        found.append([kill_at_every_write(Path(out), before, arguments) for before in (None, Path(old))])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
