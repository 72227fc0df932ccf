"""``--user-dir`` may name this package in several ways, in one process too."""

from __future__ import annotations

import os
from typing import List


def other_spellings(directory: str, fairseq_directory: str) -> List[str]:
    """Paths of this package that fairseq may arrive at beside the one it was imported from.

    When a user directory is named that is imported already, fairseq accepts it if its path is, as text, in the
    package's ``__path__``. The same directory can be named absolutely, through links, or as it is found beside fairseq.
    """
    name = os.path.basename(directory)
    candidates = [os.path.abspath(directory), os.path.realpath(directory)]
    candidates += [os.path.join(fairseq_directory, name), os.path.join(fairseq_directory, "..", name)]
    others = dict.fromkeys(path for path in candidates if path != directory)
    return [path for path in others if os.path.exists(path) and os.path.samefile(path, directory)]
