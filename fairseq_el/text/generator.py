"""Text in, text out, with checkpoints of fairseq."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from fairseq import utils

from fairseq_el.errors import (
    FairseqElError,
    LengthLimitsError,
    NoHypothesisError,
    OutOfMemoryError,
    raise_problems,
)
from fairseq_el.jobs import FailedLines, Result, batches, too_long, too_long_problem, windows
from fairseq_el.text.batch_size import BatchSize
from fairseq_el.text.command_line import arguments_of, given_window
from fairseq_el.text.hypothesis_text import result_of
from fairseq_el.text.loading import Loaded, Settings, load, read_settings
from fairseq_el.text.sources import Source, Sources, read_sources, truncated
from fairseq_el.units import parse_size

ALL = "all"

Numbered = Tuple[int, str]  # a line of text, and its number from 0


class Generator:
    """Translates lines of text, or continues them, with one checkpoint of fairseq or several.

    ::

        generator = Generator.from_checkpoint("model.pt", data="data-bin", beam=5, bpe="sentencepiece", ...)
        for result in generator.stream(lines):
            print(result.hypotheses[0].text)

    The hypotheses of a line are those of stock fairseq with that line in a batch of its own, whatever the batches are.
    An empty line has none.

    Attributes:
        loaded: the models, and all else that decodes.
    """

    def __init__(self, loaded: Loaded):
        """:meth:`from_checkpoint` and :meth:`from_arguments` load it."""
        self.loaded = loaded

    @classmethod
    def from_checkpoint(
        cls, path: Union[str, Path, Sequence[Union[str, Path]]], data: Union[str, Path], **options: Any
    ) -> Generator:
        """Loads a checkpoint.

        Args:
            path: of the checkpoint; several, in a list or with a colon in between, are an ensemble.
            data: the directory with the dictionaries.
            options: those of ``fairseq-interactive``, with underscores: ``beam=5, source_lang="de", cpu=True``. The
                task is by default the one that fits the checkpoint.

        Raises:
            OptionError: options can't be used; every problem is named.
            FairseqElError: a checkpoint can't be read, does not fit the data, or can't be decoded exactly.
        """
        return cls.from_arguments(arguments_of(data, path, options))

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Generator:
        """Does :meth:`from_checkpoint` with the options as on a command line: DATA, ``--path``, and others."""
        return cls.from_settings(read_settings(arguments))

    @classmethod
    def from_settings(cls, settings: Settings) -> Generator:
        """Does :meth:`from_arguments` with options that were read."""
        return cls(load(settings))

    def stream(self, lines: Iterable[str], ordered: bool = True, **options: Any) -> Iterator[Result]:
        """Decodes lines as they come, and needs memory for a window of them only.

        Args:
            lines: text, without line ends.
            ordered: give results in the order of the lines. Otherwise they come as they are decoded.
            options: of :meth:`batches`.

        Returns:
            a result for each line.

        Raises:
            FairseqElError, ValueError: as :meth:`batches`.
        """
        results = chain.from_iterable(self.batches(enumerate(lines), **options))
        return _in_order(results) if ordered else results

    def batches(
        self,
        lines: Iterable[Numbered],
        window: Union[int, str, None] = None,
        batch_size: Optional[int] = None,
        max_tokens: Optional[int] = None,
        memory: Union[int, str, None] = None,
        truncate_source: bool = False,
        target_prefix: bool = False,
        max_failures: int = 0,
    ) -> Iterator[List[Result]]:
        """Decodes lines with their numbers, such as those of a job that are left, and gives batches of results.

        Args:
            lines: numbers, from 0, and texts.
            window: lines to read ahead. Those of a window are sorted by length, for batches of similar lengths; ``0``
                leaves them in their order, and ``"all"`` reads all lines first (default: eight batches).
            batch_size: lines in a batch.
            max_tokens: tokens of the sources in a batch, padding included.
            memory: bytes for the process, or ``"14GiB"``: batches are as large as fits. By default, as large as fits
                into what is free.
            truncate_source: cut sources to what the models read.
            target_prefix: lines have, after a tab, words that their output begins with.
            max_failures: so many lines may fail. Their results have a ``problem`` and no hypothesis.

        Returns:
            results in the order in which they are decoded, those of a batch together.

        Raises:
            FairseqElError: more lines fail, because they are too long, do not fit into memory, or have no hypothesis.
            ValueError: an argument has a value that is not allowed.
        """
        given = self.loaded.cfg.dataset
        if batch_size is None and max_tokens is None:
            batch_size, max_tokens = given.batch_size, given.max_tokens
        settings = _Settings(
            window=given_window(self.loaded.cfg) if window is None else window,
            batch_size=batch_size,
            max_tokens=max_tokens,
            memory=parse_size(memory) if isinstance(memory, str) else memory,
            truncate_source=truncate_source,
            target_prefix=target_prefix,
            max_failures=max_failures,
        )
        _check(settings, self.loaded)
        return _Run(self.loaded, settings).batches(lines)

    def refuse_too_long(self, lines: Iterable[Numbered], target_prefix: bool = False) -> None:
        """Checks lines without decoding them.

        Args:
            target_prefix: as in :meth:`batches`.

        Raises:
            FairseqElError: some have more tokens than the models read; all are named.
        """
        limit = self.loaded.longest_source
        if limit is None:
            return
        found: Dict[int, int] = {}
        for window in windows(lines, 1000):
            sources = read_sources(self.loaded, window, target_prefix)
            pairs = _pairs(Sources(self.loaded, sources)) if sources else ()
            found.update({source.number: length for source, length in pairs if length > limit})
        if found:
            raise FairseqElError(too_long(found, limit))


class _Settings(NamedTuple):
    """The arguments of :meth:`Generator.batches`."""

    window: Union[int, str, None]
    batch_size: Optional[int]
    max_tokens: Optional[int]
    memory: Any
    truncate_source: bool
    target_prefix: bool
    max_failures: int


def _check(settings: _Settings, loaded: Loaded) -> None:
    window = settings.window
    if window not in (None, ALL) and (not isinstance(window, int) or window < 0):
        raise ValueError(f'window must be a number of lines, or "{ALL}"; got {window!r}')
    for name in ("batch_size", "max_tokens", "memory"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value!r}")
    problems = []
    if settings.truncate_source and getattr(loaded.task, "continues_prompts", False):
        problems.append(
            "--truncate-source cuts the ends of sources, and a language model goes on from there; leave it out, and "
            "shorten prompts that are too long"
        )
    if settings.target_prefix and getattr(loaded.task, "continues_prompts", False):
        problems.append("--target-prefix is for models with an encoder; a language model continues the line itself")
    if settings.target_prefix and loaded.cfg.generation.constraints is not None:
        problems.append("--target-prefix and --constraints both come after a tab; leave one of them out")
    raise_problems(problems)


class _Run:
    """One call of :meth:`Generator.batches`."""

    def __init__(self, loaded: Loaded, settings: _Settings):
        self.loaded, self.settings = loaded, settings
        self.size = BatchSize(loaded.generator, settings.batch_size, settings.max_tokens, settings.memory)
        self.failed = FailedLines(settings.max_failures)

    def batches(self, lines: Iterable[Numbered]) -> Iterator[List[Result]]:
        size = self.settings.window
        in_order = size == 0
        if size is None or size == 0:
            size = self.size.window
        for window in windows(lines, None if size == ALL else int(size)):
            yield from filter(None, self._of_window(window, in_order))

    def _of_window(self, window: List[Numbered], in_order: bool) -> Iterator[List[Result]]:
        """Results as they are decoded; those of lines that need no model come first."""
        sources = read_sources(self.loaded, window, self.settings.target_prefix)
        known = {source.number for source in sources}
        yield [Result(number, "", ()) for number, _ in window if number not in known]
        if not sources:
            return
        read = Sources(self.loaded, sources)
        limit = self.loaded.longest_source
        if limit is not None and max(read.lengths) > limit:
            if self.settings.truncate_source:
                read = self._truncated(read, limit)
            else:
                yield self._fail_too_long(read, limit)
        places = [i for i, length in enumerate(read.lengths) if limit is None or length <= limit]
        for batch in batches([read.lengths[i] for i in places], self.size.fits, in_order):
            yield self._decode(read, [places[i] for i in batch])

    def _truncated(self, read: Sources, limit: int) -> Sources:
        eos = self.loaded.task.source_dictionary.eos()
        each = [truncated(source, length - limit, eos) if length > limit else source for source, length in _pairs(read)]
        return Sources(self.loaded, each)

    def _fail_too_long(self, read: Sources, limit: int) -> List[Result]:
        found = {source.number: length for source, length in _pairs(read) if length > limit}
        self.failed.add_too_long(found, limit)
        return [Result(number, "", (), too_long_problem(length, limit)) for number, length in found.items()]

    def _decode(self, read: Sources, places: List[int]) -> List[Result]:
        """The results of a batch. If a sentence fails, each is decoded by itself."""
        sample = read.sample(places)
        if self.loaded.on_card:
            sample = utils.move_to_cuda(sample)
        try:
            found = self._hypotheses(sample)
        except (LengthLimitsError, NoHypothesisError, OutOfMemoryError) as error:
            if len(places) > 1:
                return [result for place in places for result in self._decode(read, [place])]
            number = read.each[places[0]].number
            self.failed.add(number, str(error))
            return [Result(number, "", (), str(error))]
        pad = self.loaded.task.target_dictionary.pad()
        rows = zip(sample["id"].tolist(), sample["net_input"]["src_tokens"], found)
        return [result_of(self.loaded, number, utils.strip_pad(row, pad), each) for number, row, each in rows]

    def _hypotheses(self, sample: Dict[str, Any]) -> List[List[Dict[str, Any]]]:
        with torch.no_grad():
            found: List[List[Dict[str, Any]]] = self.loaded.task.inference_step(
                self.loaded.generator,
                self.loaded.models,
                sample,
                prefix_tokens=sample.get("prefix_tokens"),
                constraints=sample.get("constraints"),
            )
        return found


def _pairs(read: Sources) -> Iterator[Tuple[Source, int]]:
    return zip(read.each, read.lengths)


def _in_order(results: Iterable[Result]) -> Iterator[Result]:
    """Results in the order of their lines, each as soon as those before it are there."""
    held: Dict[int, Result] = {}
    wanted = 0
    for result in results:
        held[result.number] = result
        while wanted in held:
            yield held.pop(wanted)
            wanted += 1
