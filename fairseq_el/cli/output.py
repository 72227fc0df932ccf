"""What commands write to standard output."""

import sys

from fairseq_el.errors import FairseqElError


def write_line(text: str) -> None:
    """
    Raises:
        FairseqElError: standard output has an encoding that can't hold the text; nothing is written.
    """
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError as error:
        raise FairseqElError(
            f"standard output must be able to hold the text; its encoding is {error.encoding}, which has no "
            f"{text[error.start]!a}. Set PYTHONIOENCODING=utf-8"
        ) from error
