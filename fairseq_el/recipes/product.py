"""What a step leaves: a directory, with a record of what it was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict

from fairseq_el.errors import FairseqElError
from fairseq_el.whole_files import write_whole_directory

_RECORD = "made_from.json"


class Product:
    """A directory that is made once, and again when what it is made from is not the same any more.

    Attributes:
        path: of the directory; it exists only when it is whole.
        step: that makes it.
        made_from: settings, and checksums of files; must be what ``json`` can write.
    """

    def __init__(self, path: Path, step: str, made_from: Dict[str, Any]):
        self.path, self.step, self.made_from = path, step, made_from

    def is_made(self) -> bool:
        """Whether it is there, made from what there is now."""
        try:
            return json.loads((self.path / _RECORD).read_text("utf-8")) == json.loads(json.dumps(self.made_from))
        except (OSError, ValueError):
            return False

    def make(self, write: Callable[[Path], object]) -> None:
        """Has the directory filled under another name, records what it was made from, and gives it its name."""

        def write_and_record(unfinished: Path) -> None:
            write(unfinished)
            (unfinished / _RECORD).write_text(json.dumps(self.made_from, indent=2, sort_keys=True) + "\n", "utf-8")

        write_whole_directory(self.path, write_and_record)

    def needed_by(self, step: str) -> None:
        """Before another step reads it.

        Raises:
            FairseqElError: it is not made, or from something else than there is now.
        """
        if not self.is_made():
            what = "made from other files or settings than there are now" if self.path.exists() else "not there"
            raise FairseqElError(
                f"{step} needs what {self.step} makes, and {self.path} is {what}. Run first: fairseq-el recipe "
                f"{self.step}"
            )
