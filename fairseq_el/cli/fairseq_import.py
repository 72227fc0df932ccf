"""The import of fairseq, which takes seconds, for the commands that need it."""

from __future__ import annotations

import logging


def import_fairseq() -> None:
    """Imports fairseq with what this package registers, if that is not done yet, and keeps its messages quiet."""
    import fairseq_el.plugin  # noqa: F401

    logging.getLogger().setLevel(logging.WARNING)  # fairseq configures it on import, to show much more
