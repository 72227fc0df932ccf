"""Mappings of a YAML file, checked key by key."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Optional, Tuple

from fairseq_el.errors import shortened

_NEEDED = object()
_MOST = 2**31 - 1  # what fairseq counts with
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class CheckedMapping:
    """Notes problems in a list instead of raising them one by one; a value that is wrong reads as an empty one.

    Attributes:
        values: as they are in the file.
        problems: that were found, in this mapping and in others that share the list.
    """

    def __init__(self, values: Any, name: str, problems: List[str]):
        self.name, self.problems = name, problems
        if not isinstance(values, dict):
            self.problem("", f"must be a mapping; got {_shown(values)}")
            values = {}
        self.values: Dict[str, Any] = {str(key): value for key, value in values.items()}
        if not all(map(_is_text, self.values)):
            self.problem("", "must have keys of whole characters, without NUL")
        self._known: List[str] = []

    def problem(self, key: str, text: str) -> None:
        """Notes what is wrong with a key, or (``""``) with the mapping."""
        name = self._full_name(key)
        self.problems.append(f"{name} {text}" if name else text)

    def _full_name(self, key: str) -> str:
        return ".".join(part for part in (self.name, key) if part)

    def take(
        self, key: str, kind: Any, default: Any = _NEEDED, one_of: Tuple[str, ...] = (), least: Optional[int] = None
    ) -> Any:
        """The value of a key, which must be of a kind (``str``, ``int``, ``float`` or ``bool``)."""
        self._known.append(key)
        if key not in self.values:
            if default is _NEEDED:
                self.problem(key, "is needed")
                return kind()
            return default
        value = self.values[key]
        if kind is float and type(value) is int and abs(value) <= _MOST:
            value = float(value)
        if type(value) is not kind:  # bool is an int
            self.problem(key, f"must be {_KINDS[kind]}; got {_shown(value)}")
            return kind()
        if one_of and value not in one_of:
            self.problem(key, f"must be one of {', '.join(one_of)}; got {_shown(value)}")
        elif kind in (int, float) and not abs(value) <= _MOST:  # NaN is not
            self.problem(key, f"must be a number up to {_MOST:,}; got {_shown(value)}")
            return kind()
        elif kind is str and not _is_text(value):
            self.problem(key, f"must be a text of whole characters, without NUL; got {_shown(value)}")
        elif least is not None and value < least:
            self.problem(key, f"must be at least {least}; got {value}")
        return value

    def at_least(self, key: str, least: int) -> None:
        """Notes a number that is there and too small; its kind is told by :meth:`take`."""
        value = self.values.get(key)
        if isinstance(value, (int, float)) and value < least:
            self.problem(key, f"must be at least {least}; got {_shown(value)}")

    def several(self, kinds: Dict[str, Any]) -> Dict[str, Any]:
        """The values of those keys that are there."""
        values = {key: self.take(key, kind, default=None) for key, kind in kinds.items()}
        return {key: value for key, value in values.items() if value is not None}

    def pair(self, key: str, default: Any = _NEEDED, or_one: bool = False) -> Tuple[str, str]:
        """Two texts, for source and target; with ``or_one`` one text may stand for both."""
        self._known.append(key)
        value = self.values.get(key, default)
        if or_one and isinstance(value, str):
            value = (value, value)
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_text, value))
        if not is_pair:
            one = "a text or " if or_one else ""
            got = "" if value is _NEEDED else f"; got {_shown(value)}"
            self.problem(key, f"must be {one}a list of two texts, of source and target{got}")
            return ("", "")
        return (value[0], value[1])

    def mapping(self, key: str, default: Any = _NEEDED) -> CheckedMapping:
        """The mapping under a key."""
        self._known.append(key)
        if key not in self.values and default is _NEEDED:
            self.problem(key, "is needed")
        value = self.values.get(key, {} if default is _NEEDED else default)
        return CheckedMapping(value, self._full_name(key), self.problems)

    def end(self) -> None:
        """Notes keys that nobody asked for."""
        for key in self.values:
            if key not in self._known:
                self.problem(key, f"is not known; known are {', '.join(sorted(self._known))}")


def _is_text(value: Any) -> bool:
    """Whether it is one that a file, and the name of a file, can have in it: without NUL and halves of characters."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    return shortened(repr(value))
