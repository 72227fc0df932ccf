"""Options of ``fairseq-interactive``, as fairseq's own parser reads them; errors are exceptions of one line."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from typing import Any, Iterator, List, NoReturn, Optional, Sequence

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_el.errors import OptionError, raise_problems
from fairseq_el.tasks import import_user_directory

Config = Any  # omegaconf's, with fairseq's groups: task, generation, dataset, ...


def import_user_directory_of(arguments: Sequence[str]) -> None:
    """Imports the module of ``--user-dir``, which may be one beside this package.

    Raises:
        OptionError: it can't be imported.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--user-dir")
    given, _ = _raising(parser).parse_known_args(arguments)
    if given.user_dir is not None:
        import_user_directory(given.user_dir)


def parse_some(arguments: Sequence[str]) -> argparse.Namespace:
    """Options that no task adds: ``task`` (None if it is not given), ``path``, ``model_overrides`` and others."""
    return _parser().parse_known_args(list(arguments))[0]


def parse(arguments: Sequence[str], task: str) -> Config:
    """All options, in fairseq's groups.

    Args:
        arguments: the command line.
        task: the name of the task, in the place of the one on the command line.

    Raises:
        OptionError: an option is unknown, or its value is not allowed.
    """
    given = options.parse_args_and_arch(_parser(), [*arguments, "--task", task])
    raise_problems(_problems(given))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's, of how fairseq calls it
        return convert_namespace_to_omegaconf(given)


def _parser() -> argparse.ArgumentParser:
    with _no_command_line():  # in which fairseq would look for --user-dir
        return _raising(options.get_interactive_generation_parser(default_task=None))


def _raising(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, which raises instead of ending the program."""

    def error(message: str) -> NoReturn:
        raise OptionError(" ".join(message.split()))

    parser.error = error  # type: ignore[method-assign]
    return parser


@contextlib.contextmanager
def _no_command_line() -> Iterator[None]:
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before


def _problems(given: argparse.Namespace) -> List[str]:
    """Options of fairseq's programs that have no meaning for text in, text out."""
    problems = []
    if getattr(given, "skip_invalid_size_inputs_valid_test", False):
        problems.append(
            "--skip-invalid-size-inputs-valid-test would leave lines out, and every line has one in the output; give "
            "--max-failures N, which leaves an empty line, or --truncate-source"
        )
    if given.prefix_size > 0:
        problems.append(f"--prefix-size needs targets, and the input has sources only; it is {given.prefix_size}")
    if given.replace_unk is not None and not given.print_alignment:
        problems.append(
            "--replace-unk needs --print-alignment, which says which word of the source an unknown one is for"
        )
    if given.num_shards > 1:
        problems.append(f"--num-shards is for splits of preprocessed data; it is {given.num_shards}. Leave it out")
    return problems


def arguments_of(data: Any, path: Any, given: Any) -> List[str]:
    """The command line with these options, for Python.

    Args:
        data: DATA.
        path: one checkpoint, or a sequence of them.
        given: options by name, as ``{"beam": 5, "sampling": True}``; None and False leave an option out.
    """
    paths = [path] if not isinstance(path, (list, tuple)) else path
    arguments = [str(data), "--path", ":".join(map(str, paths))]
    for name, value in given.items():
        arguments += _as_arguments("--" + name.replace("_", "-"), value)
    return arguments


def _as_arguments(option: str, value: Any) -> List[str]:
    if value is None or value is False:
        return []
    return [option] if value is True else [option, str(value)]


def given_window(cfg: Config) -> Optional[int]:
    """The lines that ``--buffer-size`` asks to be read ahead; None if it does not."""
    return int(cfg.interactive.buffer_size) or None
