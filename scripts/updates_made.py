"""Prints how many updates the checkpoint_last.pt of a directory has, 0 if there is none.

python scripts/updates_made.py DIRECTORY
"""

import sys
from pathlib import Path

from fairseq_el.conversion import load_checkpoint
from fairseq_el.errors import FairseqElError


def main() -> None:
    path = Path(sys.argv[1], "checkpoint_last.pt")
    if not path.exists():
        sys.stdout.write("0\n")
        return
    try:
        state = load_checkpoint(str(path), "DIRECTORY").state
    except FairseqElError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{state['optimizer_history'][-1]['num_updates']}\n")


if __name__ == "__main__":
    main()
