"""Mappings of a YAML file: read with clear errors, and checked key by key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Hashable, List, Optional, Tuple

import yaml

from fairseq_el.errors import FairseqElError, OptionError, shortened, summary_of
from fairseq_el.files import nested_too_deep, read_text

_LONGEST = 200_000  # characters: YAML is read slowly, and no recipe is so long
_RULE = "CONFIG must be a YAML file that can be read"
_REQUIRED = object()
_LARGEST = 2**31 - 1  # fairseq counts in 32 bits
_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
Kind = Tuple[Any, Optional[int]]  # str, int, float or bool; and the least number, if there is one


def read_yaml(path: Path) -> Any:
    """Reads a YAML file.

    Raises:
        OptionError: the file can't be read.
        FairseqElError: it is not YAML, or has a key twice, or is nested in itself.
    """
    text = read_text(path, _RULE, unreadable=OptionError)
    if len(text) > _LONGEST:
        raise FairseqElError(f"CONFIG must have at most {_LONGEST:,} characters; {path} has {len(text):,}")
    try:
        values = yaml.load(text, Loader=_Loader)
        if nested_too_deep(values):
            raise ValueError("it is nested too deep, or in itself")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise FairseqElError(f"CONFIG must be YAML; {path} is not: {where}{shortened(str(error.problem))}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of dates and numbers that do not exist
        raise FairseqElError(f"CONFIG must be YAML; {path} is not: {summary_of(error)}") from error
    return values


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice; YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value} is there {keys.count(key.value)} times", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


class CheckedMapping:
    """A mapping that collects problems in a list instead of raising them one by one.

    A value that is wrong reads as an empty one.

    Attributes:
        values: values by key, as they are in the file.
        problems: all problems found so far, in this mapping and in others that share the list.
    """

    def __init__(self, values: Any, name: str, problems: List[str]):
        self.name, self.problems = name, problems
        if not isinstance(values, dict):
            self.problem("", f"must be a mapping; got {_shown(values)}")
            values = {}
        self.values: Dict[str, Any] = {str(key): value for key, value in values.items()}
        if not all(map(_is_text, self.values)):
            self.problem("", "must have keys without NUL and lone surrogates")
        self._known: List[str] = []

    def problem(self, key: str, text: str) -> None:
        """Adds a problem with a key, or (``""``) with the mapping itself."""
        name = self._full_name(key)
        self.problems.append(f"{name} {text}" if name else text)

    def _full_name(self, key: str) -> str:
        return ".".join(part for part in (self.name, key) if part)

    def take(
        self, key: str, kind: Any, default: Any = _REQUIRED, one_of: Tuple[str, ...] = (), least: Optional[int] = None
    ) -> Any:
        """Returns the value of a key. It must be a ``str``, ``int``, ``float`` or ``bool``, as ``kind`` says."""
        self._known.append(key)
        if key not in self.values:
            if default is _REQUIRED:
                self.problem(key, "is needed")
                return kind()
            return default
        value = self.values[key]
        if kind is float and type(value) is int and abs(value) <= _LARGEST:
            value = float(value)
        if type(value) is not kind:  # bool is an int
            self.problem(key, f"must be {_KINDS[kind]}; got {_shown(value)}")
            return kind()
        if one_of and value not in one_of:
            self.problem(key, f"must be one of {', '.join(one_of)}; got {_shown(value)}")
        elif kind in (int, float) and not abs(value) <= _LARGEST:  # NaN is not
            self.problem(key, f"must be a number up to {_LARGEST:,}; got {_shown(value)}")
            return kind()
        elif kind is str and not _is_text(value):
            self.problem(key, f"must be a text without NUL and lone surrogates; got {_shown(value)}")
        elif least is not None and value < least:
            self.problem(key, f"must be at least {least}; got {_shown(self.values[key])}")
        return value

    def take_optional(self, kinds: Dict[str, Kind]) -> Dict[str, Any]:
        """Returns the values of those keys that are there."""
        values = {key: self.take(key, kind, default=None, least=least) for key, (kind, least) in kinds.items()}
        return {key: value for key, value in values.items() if value is not None}

    def pair(self, key: str, default: Any = _REQUIRED, or_one: bool = False) -> Tuple[str, str]:
        """Returns two texts, for source and target; with ``or_one`` one text may stand for both."""
        self._known.append(key)
        value = self.values.get(key, default)
        if or_one and isinstance(value, str):
            value = (value, value)
        is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_text, value))
        if not is_pair:
            one = "a text or " if or_one else ""
            got = "" if value is _REQUIRED else f"; got {_shown(value)}"
            self.problem(key, f"must be {one}a list of two texts, of source and target{got}")
            return ("", "")
        return (value[0], value[1])

    def mapping(self, key: str, default: Any = _REQUIRED) -> CheckedMapping:
        """Returns the mapping under a key."""
        self._known.append(key)
        if key not in self.values and default is _REQUIRED:
            self.problem(key, "is needed")
        value = self.values.get(key, {} if default is _REQUIRED else default)
        return CheckedMapping(value, self._full_name(key), self.problems)

    def refuse_unknown_keys(self) -> None:
        """Adds each key that no method above has read to the problems."""
        for key in self.values:
            if key not in self._known:
                self.problem(key, f"is not known; known are {', '.join(sorted(self._known))}")


def _is_text(value: Any) -> bool:
    """Says whether a value is a text that files and their names can have: without NUL and lone surrogates."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > 10**20:
        return "a number of more than 20 digits"
    return shortened(repr(value))
