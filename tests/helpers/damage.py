"""Ways to damage good input: each gives a function that changes one thing in a directory."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any, Callable

import torch
import yaml

Change = Callable[[Path], Any]
DIGITS = "9" * 400
MANY_DIGITS = "9" * 5000
DEEP = "[" * 100_000


class Hostile:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


# What can be wrong with any file.


def nothing(directory: Path) -> None:
    pass


def content(name: str, text: str | bytes) -> Change:
    return lambda directory: (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))


def cut(name: str, share: float) -> Change:
    def change(directory: Path) -> None:
        whole = (directory / name).read_bytes()
        (directory / name).write_bytes(whole[: int(len(whole) * share)])

    return change


def instead(name: str, make: Callable[[Path], Any]) -> Change:
    """Something else in the place of a file, or where none was."""

    def change(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        make(directory / name)

    return change


def fifo(name: str) -> Change:
    return instead(name, os.mkfifo)


def folder(name: str) -> Change:
    return instead(name, os.mkdir)


def link(name: str, target: str) -> Change:
    return instead(name, lambda path: os.symlink(target, path))


def without(*names: str) -> Change:
    return lambda directory: [(directory / name).unlink() for name in names]


def all_of(*changes: Change) -> Change:
    return lambda directory: [change(directory) for change in changes]


# What can be wrong with a checkpoint.


def state(change: Callable[[Any], Any], name: str = "model.pt", **how: Any) -> Change:
    """With what ``torch.save`` wrote, changed."""

    def apply(directory: Path) -> None:
        loaded = torch.load(directory / name)
        changed = change(loaded)
        torch.save(loaded if changed is None else changed, directory / name, **how)

    return apply


def settings(name: str = "model.pt", **changed: Any) -> Change:
    return state(lambda loaded: vars(loaded["args"]).update(changed), name)


def in_cfg(name: str, arch: str, **changed: Any) -> Change:
    """With settings as fairseq has them since it knows Hydra, the architecture under ``_name``."""

    def change(loaded: Any) -> Any:
        model = {**vars(loaded["args"]), "_name": arch, **changed}
        del model["arch"]
        return {**loaded, "args": None, "cfg": {"model": model, "task": {"_name": "translation"}}}

    return state(change, name)


def entry(key: str, value: Any) -> Change:
    return state(lambda loaded: {**loaded, key: value})


def tensors(name: str = "model.pt", **changed: Any) -> Change:
    """With ``__`` for a dot in a tensor's name; None takes it away."""

    def change(loaded: Any) -> None:
        for key, value in changed.items():
            weight = key.replace("__", ".")
            if value is None:
                del loaded["model"][weight]
            else:
                loaded["model"][weight] = value

    return state(change, name)


def flipped(name: str, record: str) -> Change:
    """One bit of what a record of the archive holds."""

    def change(directory: Path) -> None:
        with zipfile.ZipFile(directory / name) as archive:
            info = next(info for info in archive.infolist() if info.filename.endswith(record))
            whole = archive.read(info)
        content = bytearray((directory / name).read_bytes())
        content[content.index(whole, info.header_offset) + len(whole) // 2] ^= 1
        (directory / name).write_bytes(bytes(content))

    return change


# What can be wrong with JSON and YAML.


def json_keys(name: str, **changed: Any) -> Change:
    def change(directory: Path) -> None:
        values = {**json.loads((directory / name).read_text()), **changed}
        (directory / name).write_text(json.dumps(values))

    return change


def config(**changed: Any) -> Change:
    return json_keys("hf/config.json", **changed)


def recipe(**changed: Any) -> Change:
    """With ``__`` for the dot between keys."""

    def change(directory: Path) -> None:
        values = yaml.safe_load((directory / "recipe.yaml").read_text())
        for key, value in changed.items():
            *outer, last = key.split("__")
            inside = values
            for name in outer:
                inside = inside[name]
            inside[last] = value
        (directory / "recipe.yaml").write_text(yaml.safe_dump(values))

    return change


def yaml_text(text: str) -> Change:
    return content("recipe.yaml", text)


def instead_of_dictionaries(text: str | bytes) -> Change:
    return all_of(*(content(f"bart/{name}", text) for name in ("dict.txt", "dict.source.txt", "dict.target.txt")))
