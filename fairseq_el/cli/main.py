"""The command ``fairseq-el``: it reads the command line, calls one command, and prints errors in one line."""

from __future__ import annotations

import errno
import importlib
import logging
import shlex
import sys
from typing import Any, Callable, List, Optional, Sequence

from fairseq_el.cli.fairseq_import import import_fairseq
from fairseq_el.cli.parser import Parser, add_subcommands, parse
from fairseq_el.cli.streams import drop_unwritable_output, flush_output, open_closed_streams, say_error
from fairseq_el.errors import FairseqElError, is_out_of_memory, shortened, summary_of

# In the order of --help. The module of a command, with what it needs, is imported when the command is called.
_COMMANDS = {
    "generate": "text in, text out: decode lines in their order",
    "plan": "how large a batch fits in memory",
    "bench": "decode with several programs side by side",
    "calibrate": "measure this machine for --el-backend auto",
    "convert": "describe, relabel, strip and average checkpoints, and take them from and to Hugging Face",
    "merge": "the output of fairseq-el generate, from the journal of one or more processes",
    "progress": "how far fairseq-el generate is, on this machine or others",
    "encode": "text as pieces for fairseq-preprocess, with the tokenizer of a converted model",
    "recipe": "an experiment, from raw text to scores",
    "score": "BLEU, chrF and ROUGE of what fairseq-generate wrote",
    "verify": "decode with stock fairseq and with EL-attention, and compare",
}
_WITHOUT_FAIRSEQ = ("calibrate", "generate", "merge", "progress", "score")  # at least for their --help

_EXIT_STATUS = """\
The exit status is 0 if all went well; 1 for errors, where verify finds differences, and where generate leaves lines
empty; 2 for a command line that makes no sense, or names a file that is not there; 3 if generate was asked to stop, and
can go on; 130 if it was stopped by Ctrl-C. An error is one message on standard error, and what was being written is not
left behind."""

_ELSEWHERE = "write to another directory"
_ADVICE = {
    errno.ENOSPC: f"Free some space, or {_ELSEWHERE}",
    errno.EDQUOT: f"Free some space, or {_ELSEWHERE}",
    errno.EFBIG: f"Files may not be so large here: raise the limit (ulimit -f), or {_ELSEWHERE}",
    errno.EROFS: f"The file system can only be read: {_ELSEWHERE}",
    errno.EACCES: "You may not do this there: change the permissions, or name another file or directory",
    errno.EPERM: "You may not do this there: change the permissions, or name another file or directory",
    errno.ENOENT: "Make the directory it is to be in first, or name another one",
    errno.ENOTDIR: "A part of the path is a file, not a directory: name another one",
    errno.EISDIR: "It is a directory: name a file",
    errno.EEXIST: "Name another one",
    errno.ENAMETOOLONG: "The name is too long for this file system: use a shorter one",
    errno.ELOOP: "Its links lead in a circle: name the file itself",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n)",
    errno.EIO: "The disk or its connection has failed: use another one",
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs ``fairseq-el`` and returns its exit status; see ``_EXIT_STATUS``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return report_errors(lambda: _run(given), "fairseq-el")


def report_errors(command: Callable[[], int], program: str) -> int:
    """Runs a command, and prints its errors in one line that begins with the name of the program.

    Returns:
        the exit status; see ``_EXIT_STATUS``.
    """
    logging.getLogger().setLevel(logging.WARNING)  # fairseq configures it on import, to show much more
    open_closed_streams()
    try:
        status = command()
        flush_output()
        return status
    except FairseqElError as error:
        say_error(str(error), program)
        return error.exit_status
    except KeyboardInterrupt:
        say_error("stopped by Ctrl-C", program)
        return 130
    except BrokenPipeError:  # the reader of the output has seen enough: fairseq-el plan ... | head
        return 1
    except (OSError, MemoryError, RuntimeError) as error:
        message = explain_system(error)
        if message is None:
            raise
        say_error(message, program)
        return 1
    finally:
        drop_unwritable_output()


def explain_system(error: BaseException) -> Optional[str]:
    """The message for a user about an exception of the operating system; None for other exceptions."""
    if isinstance(error, OSError):
        where = " to ".join(shortened(str(name)) for name in (error.filename, error.filename2) if name is not None)
        what = error.strerror or summary_of(error)
        advice = _ADVICE.get(error.errno or 0, "Name another file or directory")
        return f"{where}: {what}. {advice}" if where else f"{what}. {advice}"
    if is_out_of_memory(error):
        return f"there is not enough memory: {summary_of(error)}. Ask for less, or use a machine with more"
    return None


def _run(given: List[str]) -> int:
    parser = Parser(prog="fairseq-el", description="Tools for decoding with EL-attention.", epilog=_EXIT_STATUS)
    commands = add_subcommands(parser, "COMMAND", "commands")
    called = next((word for word in given if not word.startswith("-")), "")
    for name, summary in _COMMANDS.items():
        if name == called:
            module = _module_of(name)
            module.add_parser(commands, summary)
        else:
            commands.add_parser(name, help=summary)
    command_line = shlex.join([parser.prog, *given])
    if any("\0" in word for word in given):
        parser.error("no argument can have a NUL in it")
    if called == "bench":
        program = module.moved_benchmark(given)
        if program is not None:
            return int(program(given[2:]))
    options = parse(parser, given)
    options.command_line = command_line
    return int(options.run(options))


def _module_of(name: str) -> Any:
    if name not in _WITHOUT_FAIRSEQ:
        import_fairseq()
    return importlib.import_module(f"fairseq_el.cli.{name}")
