"""Step ``download``: downloads or copies the files of a recipe, and checks those that are there already.

It uses urllib, and resumes a download that was interrupted; pooch and torch.hub would begin again.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

from tqdm import tqdm

from fairseq_el.errors import FairseqElError
from fairseq_el.files import (
    CHUNK,
    FILE,
    PART,
    followed,
    give_name,
    kind_of,
    require_file,
    sha256_of,
    staging_directory,
    write_whole,
)
from fairseq_el.recipes.recipe_file import Origin, Recipe, Say

_TIMEOUT = 60  # seconds without a byte


def download(recipe: Recipe, workdir: Path, say: Say) -> None:
    """Puts the files of a recipe into the working directory. Files that are there already are checked and kept.

    Raises:
        FairseqElError: a file can't be downloaded or copied, or has another checksum; all such files are named.
    """
    problems: Dict[str, List[str]] = {}  # names by what is wrong
    for name, origin in recipe.files.items():
        try:
            say(f"{name}: {_provide(name, origin, workdir, recipe.path.parent)}")
        except FairseqElError as error:
            problems.setdefault(str(error), []).append(name)
    if problems:
        listed = "".join(f"\n  - {', '.join(names)}: {problem}" for problem, names in problems.items())
        count = sum(map(len, problems.values()))
        raise FairseqElError(
            f"{count} of {len(recipe.files)} files are not there yet. They are looked for in {workdir}, and "
            f"may be put there by hand; what is there already stays:{listed}"
        )


def _provide(name: str, origin: Origin, workdir: Path, configs: Path) -> str:
    """Puts one file into the working directory, and says where it is from.

    Raises:
        FairseqElError: the file can't be downloaded or copied, or has another checksum.
    """
    path = workdir / name
    if kind_of(path) not in (FILE, None):
        raise FairseqElError(f"it must be a file; {path} is {kind_of(path)}. Move it away, or choose another --workdir")
    if path.is_file():
        if origin.sha256 is not None and sha256_of(path) != origin.sha256:
            raise FairseqElError(
                f"what is there must have sha256 {origin.sha256}; it has {sha256_of(path)}. Remove "
                f"{path}, and it is downloaded again"
            )
        return "is there" if origin.sha256 is None else "is there, checksum is right"
    path.parent.mkdir(parents=True, exist_ok=True)
    if origin.copy is not None:
        source = configs / origin.copy
        try:
            require_file(source, "it is copied from a file")
            write_whole(path, lambda unfinished: shutil.copyfile(source, unfinished))
        except OSError as error:
            raise FairseqElError(f"it can't be copied from {source}: {error.strerror}") from error
        return f"copied from {source}"
    if origin.url is None:
        raise FairseqElError(f"you must put it there. {origin.where}")
    assert origin.sha256 is not None
    _fetch(name, origin.url, origin.sha256, path)
    return "downloaded, checksum is right"


def _fetch(name: str, url: str, sha256: str, path: Path) -> None:
    """Downloads a file, and resumes an earlier download that was interrupted.

    Raises:
        FairseqElError: the server can't be reached or stops, the checksum is another, or another process downloads it.
    """
    path = followed(path)
    earlier = path.with_name(f".{path.name}.{sha256[:12]}{PART}")  # the checksum keeps other files' parts apart
    with staging_directory(path, alone=True) as staging:
        if kind_of(path) is not None:
            raise FairseqElError(f"another process has made {path} just now. Run this again, and it is checked")
        part = staging / earlier.name  # goes back beside the path if the download is interrupted
        with contextlib.suppress(FileNotFoundError):
            earlier.rename(part)
        _complete(name, url, sha256, part)
        try:
            give_name(part, path)
        finally:
            part.unlink(missing_ok=True)


def _complete(name: str, url: str, sha256: str, part: Path) -> None:
    try:
        _append_rest(name, url, part)
    except urllib.error.HTTPError as error:
        raise FairseqElError(
            f"the server of {url} answers {error.code} {error.reason}. Get the file elsewhere and put it "
            f"there; its sha256 is {sha256}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of a redirection that is no URL
        reason = getattr(error, "reason", None) or error
        have = part.stat().st_size if part.exists() else 0
        raise FairseqElError(
            f"{url} can't be reached, or the connection broke ({reason}). Run this again when there is a "
            f"network, and it goes on after the {have:,} bytes it has, or get the file elsewhere and put it there"
        ) from error
    found = sha256_of(part)
    if found != sha256:
        part.unlink()
        raise FairseqElError(
            f"what {url} sends must have sha256 {sha256}; it has {found}. It was deleted; if it is so again, "
            "the file has changed there: do not use it unless you trust it"
        )


def _append_rest(name: str, url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing comes after what is there: its checksum decides
    with response:
        goes_on = response.status == http.client.PARTIAL_CONTENT
        _write(name, response, part, "ab" if goes_on else "wb", have if goes_on else 0)


def _write(name: str, response: Any, part: Path, mode: str, have: int) -> None:
    length = response.headers.get("Content-Length") or ""
    total = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None  # None: the checksum alone decides
    with part.open(mode) as file, tqdm(
        desc=name, initial=have, total=total, unit="B", unit_scale=True, leave=False, disable=None
    ) as bar:
        for chunk in iter(lambda: response.read1(CHUNK), b""):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size:,} of {total:,} bytes came")
