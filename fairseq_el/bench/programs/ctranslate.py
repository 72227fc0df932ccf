"""CTranslate2 with the weights of a fairseq checkpoint."""

from __future__ import annotations

from typing import Any, List, Sequence

from torch import Tensor

from fairseq_el.bench.methods import Method, optional_module
from fairseq_el.bench.programs.base import Program, ScoredOutput, Sources, configuration, task_of
from fairseq_el.bench.settings import Settings
from fairseq_el.errors import FairseqElError


def convert(settings: Settings) -> None:
    """Writes the model for CTranslate2 into ``settings.converted``, in float32; it is made smaller when it is loaded.

    The converter unpickles nothing that is not on the allow-list of this package, with which the checkpoint has been
    loaded before.

    Raises:
        FairseqElError: CTranslate2 does not support such a model.
    """
    converters = optional_module("ctranslate2.converters")
    languages = {"source_lang": settings.source_lang, "target_lang": settings.target_lang}
    try:
        converters.FairseqConverter(settings.path, settings.data, **languages).convert(settings.converted, force=True)
    except Exception as error:
        raise FairseqElError(f"ct2: {settings.path} could not be converted: {type(error).__name__}: {error}") from error


class CTranslateProgram(Program):
    """Method ``ct2``. Tokens are handed over as text, its own format, made before the time is taken."""

    def __init__(self, settings: Settings, method: Method):
        ctranslate2 = optional_module("ctranslate2")
        supported = sorted(ctranslate2.get_supported_compute_types(settings.device))
        if method.dtype not in ("default", "auto", *supported):
            where = "processor" if settings.device == "cpu" else "card"
            raise FairseqElError(f"ct2: this {where} computes {', '.join(supported)}; {method.dtype} was asked for")
        self.settings, self.method = settings, method
        self.sources = Sources(task_of(configuration(settings, "translation"), settings.data), settings.subset)
        self._translator = ctranslate2.Translator(
            settings.converted,
            device=settings.device,
            compute_type=method.dtype,
            inter_threads=method.inter,
            intra_threads=method.intra or settings.threads,
        )
        self._batches: List[List[List[str]]] = []

    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """The converted model adds the eos itself."""
        symbols = [_renamed(symbol) for symbol in self.sources.dictionary.symbols]
        self._batches = [[[symbols[i] for i in source[:-1].tolist()] for source in batch] for batch in batches]

    def decode(self, tgt_len: int) -> Any:
        """With several batches at a time, each gets its share of the sentences."""
        return [
            self._translator.translate_batch(
                batch,
                beam_size=self.settings.beam,
                length_penalty=self.settings.lenpen,
                no_repeat_ngram_size=self.settings.no_repeat_ngram_size,
                min_decoding_length=tgt_len or 1,
                max_decoding_length=tgt_len or self.settings.natural_length,
                max_input_length=0,  # no limit
                max_batch_size=-(-len(batch) // self.method.inter),
                suppress_sequences=[["<blank>"]],  # as fairseq, which never writes padding
                return_end_token=True,  # counted in the length that scores are divided by, as in fairseq
            )
            for batch in self._batches
        ]

    def hypotheses(self, raw: Any, with_scores: bool) -> List[ScoredOutput]:
        """Scores are made here, by reading the outputs: its search spreads what forbidden words had over the others."""
        dictionary = self.sources.target_dictionary
        result = []
        for batch, translations in zip(self._batches, raw):
            outputs = [translation.hypotheses[0] for translation in translations]
            scores = self._scores(batch, outputs) if with_scores else [None] * len(outputs)
            for words, of_words in zip(outputs, scores):
                tokens = [dictionary.index(_original(word)) for word in words]
                whole = None if of_words is None else sum(of_words) / len(tokens) ** self.settings.lenpen
                result.append(ScoredOutput(tokens, whole, of_words))
        return result

    def _scores(self, sources: List[List[str]], outputs: List[List[str]]) -> List[List[float]]:
        """``score_batch`` adds an eos to every output; of one without an eos, only the scores of its words count."""
        ended = self.sources.target_dictionary.eos_word
        targets = [words[:-1] if words[-1:] == [ended] else words for words in outputs]
        scored = self._translator.score_batch(sources, targets, max_batch_size=1, max_input_length=0)
        return [result.log_probs[: len(words)] for result, words in zip(scored, outputs)]


def _renamed(symbol: str) -> str:
    return "<blank>" if symbol == "<pad>" else symbol


def _original(word: str) -> str:
    return "<pad>" if word == "<blank>" else word
