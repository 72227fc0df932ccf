"""docs/design.md has a line for everything that is there, and names no file that is not; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DESIGN = REPOSITORY / "docs" / "design.md"
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "examples/*/*.md", "benchmarks/*.md") for path in REPOSITORY.glob(pattern)
)


def tree() -> dict[str, list[str]]:
    """The names in the tree of docs/design.md, by the directory that they are in; every name has its few words."""
    found: dict[str, list[str]] = {}
    section = DESIGN.read_text(encoding="utf-8").partition("\n## Layout\n")[2].partition("\n## ")[0]
    for line in re.findall(r"^    (.*)$", section, re.M):
        if not line.startswith(" "):
            assert re.fullmatch(r"\w+/", line), line
            found[line] = []
        else:
            name, *words = line.split()
            assert words, f"{name} has no line"
            found[list(found)[-1]].append(name)
    return found


def packages_and_modules(directory: Path) -> list[str]:
    """Packages, also those in packages, and C++, with a slash; and top-level modules."""
    packages = {f"{path.parent.relative_to(directory)}/" for path in directory.rglob("*/__init__.py")}
    packages |= {f"{path.parent.relative_to(directory)}/" for path in directory.rglob("*.cpp")}
    return sorted([*packages, *(path.name for path in directory.glob("*.py") if path.name != "__init__.py")])


def programs(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix in (".py", ".sh"))


def test_the_tree_is_what_is_there():
    shown = tree()
    assert list(shown) == ["fairseq_el/", "scripts/", "benchmarks/"]
    assert sorted(shown["fairseq_el/"]) == packages_and_modules(REPOSITORY / "fairseq_el")
    for directory in ("scripts/", "benchmarks/"):
        assert sorted(shown[directory]) == programs(REPOSITORY / directory), directory


def test_files_that_are_named_exist():
    """In all pages: names in code marks that have a directory and a suffix, from the top or from the package."""
    missing = []
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":  # says what was
            continue
        named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|sh|yaml))`", path.read_text(encoding="utf-8"))
        named += re.findall(r"(?<![\w./-])((?:scripts|benchmarks|configs|tests)/[\w/-]+\.\w+)", path.read_text("utf-8"))
        missing += [
            f"{path.name}: {name}"
            for name in dict.fromkeys(named)
            if not any((top / name).exists() for top in (REPOSITORY, REPOSITORY / "fairseq_el"))
        ]
    assert not missing


def anchors(path: Path) -> set[str]:
    """Those that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path):
    for address in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" in address:
            continue
        name, _, anchor = address.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), address
        assert not anchor or anchor in anchors(target), address


def test_the_index_names_every_page():
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_the_readme_is_one_page():
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
