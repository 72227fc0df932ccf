"""A YAML file as plain values, or what is wrong with it in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Hashable

import yaml

from fairseq_el.errors import FairseqElError, OptionError, shortened, summary_of
from fairseq_el.files.reading import nested_too_deep, read_text

_LONGEST = 200_000  # characters: YAML is read slowly, and no recipe is so long
_RULE = "CONFIG must be a YAML file that can be read"


def read_yaml(path: Path) -> Any:
    """
    Raises:
        OptionError: the file can't be read.
        FairseqElError: it is no YAML, or has a key twice, or is nested in itself.
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
