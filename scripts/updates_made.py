"""Prints how many updates the checkpoint_last.pt of a directory has, 0 if there is none.

python scripts/updates_made.py DIRECTORY
"""

import sys
from pathlib import Path

from fairseq.checkpoint_utils import load_checkpoint_to_cpu

import fairseq_el  # noqa: F401  (which classes may be loaded from checkpoints)


def main() -> None:
    path = Path(sys.argv[1], "checkpoint_last.pt")
    made = load_checkpoint_to_cpu(str(path))["optimizer_history"][-1]["num_updates"] if path.exists() else 0
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
