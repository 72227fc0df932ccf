"""Lines that have no output, and what to do about them. Lines are named by their numbers, from 1."""

from __future__ import annotations

from typing import Dict, List, Mapping

from fairseq_el.errors import FairseqElError

_NAMED = 200  # lines, of many


class FailedLines:
    """Lines that have failed so far.

    Attributes:
        most: so many may fail.
        problems: why each has failed, by its number from 0.
    """

    def __init__(self, most: int):
        self.most = most
        self.problems: Dict[int, str] = {}

    def add(self, number: int, problem: str) -> None:
        """Notes a line that has failed.

        Raises:
            FairseqElError: these are too many.
        """
        self.problems[number] = problem
        if self.most == 0:
            raise FairseqElError(
                f"line {number + 1:,} has no output: {_sentence(problem)} --max-failures 1 leaves its line empty"
            )
        self._refuse_too_many()

    def add_too_long(self, lengths: Mapping[int, int], limit: int) -> None:
        """Notes lines that have more tokens than the models read.

        Args:
            lengths: tokens of each, by their numbers from 0.

        Raises:
            FairseqElError: these are too many.
        """
        self.problems.update({number: too_long_problem(length, limit) for number, length in lengths.items()})
        if self.most == 0:
            raise FairseqElError(too_long(lengths, limit))
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        refuse_too_many(self.problems, self.most)


def refuse_too_many(problems: Mapping[int, str], most: int) -> None:
    """Refuses failed lines, given by their numbers from 0, if there are more than ``most``.

    Raises:
        FairseqElError: there are.
    """
    if len(problems) > most:
        last = list(problems)[-1]
        raise FairseqElError(
            f"{len(problems):,} lines have no output, and --max-failures allows {most:,}: {_listed(list(problems))}. "
            f"Of line {last + 1:,}: {problems[last]}"
        )


def too_long_problem(length: int, limit: int) -> str:
    """The problem of one line that is too long."""
    return f"it has {length:,} tokens, and the model reads {limit:,}"


def too_long(lengths: Mapping[int, int], limit: int) -> str:
    """The message for lines that are too long, where none may be."""
    is_one = len(lengths) == 1
    what = f"line {_listed(list(lengths))} is" if is_one else f"{len(lengths):,} lines are"
    which = "it has" if is_one else f"{_listed(list(lengths))}; the longest has"
    return (
        f"{what} longer than the {limit:,} tokens that the model reads: {which} {max(lengths.values()):,}. Cut them "
        f"with --truncate-source, or leave their lines empty with --max-failures {len(lengths)}"
    )


def _listed(numbers: List[int]) -> str:
    named = ", ".join(str(number + 1) for number in sorted(numbers)[:_NAMED])
    return named if len(numbers) <= _NAMED else f"{named} and {len(numbers) - _NAMED:,} more"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
