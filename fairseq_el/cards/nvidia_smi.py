"""The cards that nvidia-smi shows.

Needs only the standard library: ``scripts/install.sh`` asks it before anything is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import List, NamedTuple, Optional, Tuple

_SECONDS = 30  # for a driver that has to be loaded first
_DRIVER = r"\d{2,4}(?:\.\d+)+"

Capability = Tuple[int, int]  # compute capability: (7, 0) is 7.0


class Card(NamedTuple):
    """A card as nvidia-smi shows it."""

    capability: Optional[Capability]  # None: an old nvidia-smi, which does not know it
    driver: str  # "535.104.05"

    def __str__(self) -> str:
        driver = f"driver {self.driver}"
        return driver if self.capability is None else f"compute capability {dotted(self.capability)}, {driver}"


class Shown(NamedTuple):
    """The cards of the machine, and the reason why there are none although nvidia-smi is installed."""

    cards: List[Card]
    problem: str


def dotted(capability: Capability) -> str:
    """``"7.0"`` for ``(7, 0)``."""
    return "{}.{}".format(*capability)


def has_nvidia_smi() -> bool:
    """Whether this machine has the program nvidia-smi, which comes with NVIDIA's driver."""
    return shutil.which("nvidia-smi") is not None


def shown_cards() -> Shown:
    """The cards that nvidia-smi shows. A machine without the program has no cards, which is no problem."""
    if not has_nvidia_smi():
        return Shown([], "")
    lines, problem = _ask("compute_cap,driver_version")
    cards = [card for card in map(_card, lines) if card is not None]
    if not cards:  # an old one does not know compute_cap
        lines, _ = _ask("driver_version")
        cards = [Card(None, line) for line in lines if re.fullmatch(_DRIVER, line)]
    return Shown(cards, "" if cards else problem)


def _ask(fields: str) -> Tuple[List[str], str]:
    """The lines of nvidia-smi's answer to a query, and the problem to report if no line names a card."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [], f"nvidia-smi did not answer in {_SECONDS} seconds"
    except OSError as error:
        return [], f"nvidia-smi does not run: {error.strerror or error}"
    said = [text.decode("utf-8", errors="replace").splitlines() for text in (answer.stdout, answer.stderr)]
    lines, errors = ([line.strip() for line in text if line.strip()] for text in said)
    return lines, f"nvidia-smi shows no card; it says: {(lines + errors + ['nothing'])[0][:200]}"


def _card(line: str) -> Optional[Card]:
    """The card of a line such as ``8.0, 535.104.05`` or ``[N/A], 535.104.05``; None for other lines."""
    capability, _, driver = (part.strip() for part in line.partition(","))
    known = re.fullmatch(r"(\d+)\.(\d)", capability)
    if not re.fullmatch(_DRIVER, driver) or (known is None and not capability.startswith("[")):
        return None
    return Card(None if known is None else (int(known.group(1)), int(known.group(2))), driver)
