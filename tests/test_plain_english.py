"""README, docs and docstrings in plain English: short sentences, and no phrase that makes readers stumble."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "fairseq_el"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*/*.md", "benchmarks/*.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"
)
PARTS = sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})  # packages and modules
PARTS += ["../benchmarks", "../scripts"]

MOST_WORDS = 35
FORBIDDEN = ("can't be had", "is none of", "what must be", "of which")
NO_FIRST_WORDS = ("What", "Of", "As", "Whether", "Where", "How")  # a docstring begins with a verb or names the thing


def paragraphs(markdown: str) -> Iterator[str]:
    """Paragraphs, points of lists and headings, each in one line: without code, tables and the addresses of links."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_code = line.startswith("    ") and not (lines and re.match(r" *([-*]|\d+\.) ", lines[0]))
        starts = re.match(r" *([-*]|\d+\.) |#", line)
        if lines and (not line.strip() or is_code or starts or line.startswith("|")):
            yield " ".join(lines)
            lines = []
        if line.strip() and not is_code and not line.startswith("|"):
            lines.append(line.strip())
        if line.startswith("#"):
            yield lines.pop()


def sentences(paragraph: str) -> list[str]:
    """Sentences end at ".", "!" or "?" before a space; code and a formula count as one word."""
    text = re.sub(r"``.+?``|`[^`]+`", "CODE", paragraph)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\b(et al|e\.g|i\.e|vs|cf|Eq|Fig|Sec)\.", r"\1", text)
    return re.split(r"(?<=[.!?])[*)\"']*\s+", text)


def num_words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def complaints(paragraph: str) -> list[str]:
    """Sentences of a paragraph that are too long, and the forbidden phrases in it."""
    found = [f"{num_words(one)} words: {one}" for one in sentences(paragraph) if num_words(one) > MOST_WORDS]
    return found + [f'"{phrase}": {paragraph}' for phrase in FORBIDDEN if phrase in paragraph.lower()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documents(path):
    found = [problem for one in paragraphs(path.read_text(encoding="utf-8")) for problem in complaints(one)]
    assert not found, "\n".join(found)


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Docstrings of a module, with the names of what they describe."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), text


def prose(docstring: str) -> Iterator[str]:
    """Paragraphs and described arguments of a docstring, without code and equations, which are indented under "::"."""
    literal = None
    block: list[str] = []
    for line in [*docstring.splitlines(), ""]:
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is not None:
            continue
        entry = re.match(r" *(- |[\w*, ]+:( |$))", line)
        if block and (not line.strip() or entry):
            yield " ".join(block)
            block = []
        if line.strip():
            block.append(line.strip())
        if line.rstrip().endswith("::"):
            literal = indent


def docstring_complaints(path: Path) -> list[str]:
    found = []
    for name, text in docstrings(path):
        problems = [problem for one in prose(text) for problem in complaints(one)]
        first = re.match(r"[\w']+", text)
        if first and first[0] in NO_FIRST_WORDS:
            problems.append(f'begins with "{first[0]}": {text.splitlines()[0]}')
        found += [f"{path.name}: {name}: {problem}" for problem in problems]
    return found


def modules(part: str) -> list[Path]:
    directory = PACKAGE / part
    return sorted(directory.rglob("*.py")) if directory.is_dir() else [directory]


@pytest.mark.parametrize("part", PARTS)
def test_docstrings(part):
    found = [problem for path in modules(part) for problem in docstring_complaints(path)]
    assert not found, "\n".join(found)


LONG = "word " * 36


@pytest.mark.parametrize(
    ("markdown", "num_problems"),
    [
        (f"{LONG}end.", 1),
        (f"{'word ' * 20}end. {'word ' * 20}end.", 0),
        (f"- {'word ' * 20}end\n- {'word ' * 20}end", 0),
        (f"```sh\n{LONG}\n```\n", 0),
        (f"Text.\n\n    {LONG}\n", 0),
        (f"| {LONG} |\n", 0),
        (f"Text `{LONG}` ends.", 0),
        ("It is none of these.", 1),
        ("Yan et al. wrote it.\n", 0),
        (f"# Heading\n{'word ' * 34}end.", 0),
    ],
)
def test_what_is_found(markdown, num_problems):
    assert sum(len(complaints(one)) for one in paragraphs(markdown)) == num_problems
