"""Prints the torch to install for this Python and this machine's cards; and why, to standard error.

    python scripts/choose_torch.py [REQUIREMENT]

REQUIREMENT is printed as it is, with what speaks against it. Needs nothing but Python. Run by scripts/install.sh.
"""

from __future__ import annotations

import platform
import sys
import types
from pathlib import Path

# The package itself can't be imported before fairseq and torch are installed; two of its modules can.
package = types.ModuleType("fairseq_el")
package.__path__ = [str(Path(__file__).resolve().parent.parent / "fairseq_el")]
sys.modules["fairseq_el"] = package

from fairseq_el.cards.nvidia_smi import shown_cards  # noqa: E402
from fairseq_el.cards.torch_builds import choose, doubt  # noqa: E402


def say(message: str) -> None:
    sys.stderr.write(message + "\n")


def main(asked: str) -> None:
    is_known = platform.system() == "Linux" and platform.machine() == "x86_64"  # where the wheels were looked into
    cards, problem = shown_cards() if is_known else ([], "")
    choice = choose(sys.version_info[:2], cards)
    if problem:
        say(f"Note: {problem}. torch is chosen as without a card; set TORCH to take another.")
    if asked:
        say(f"Taking {asked}, as TORCH says.")
        for line in filter(None, doubt(asked, cards).split("\n")):
            say(f"Warning: {line}." + ("" if choice.problem else f" TORCH={choice.requirement} would serve it."))
    elif choice.problem:
        say(f"Taking {choice.requirement}.")
        for line in choice.problem.split("\n"):
            say(f"Warning: {line}.")
    else:
        say(f"Taking {choice.requirement}: {choice.reason}.")
    sys.stdout.write((asked or choice.requirement) + "\n")


if __name__ == "__main__":
    main(*(sys.argv[1:2] or [""]))
