"""fairseq's own generator, with stock attention and with EL-attention, made as ``fairseq-generate`` makes it."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields
from typing import Any, Dict, List, Sequence, Tuple

import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import LanguagePairDataset
from fairseq.ngram_repeat_block import NGramRepeatBlock
from torch import Tensor

from fairseq_el.bench.methods import EL_KINDS, INT8, Method
from fairseq_el.bench.programs.base import (
    Program,
    Prompts,
    ScoredOutput,
    Sources,
    configuration,
    forced_scores,
    reads_prompts,
    task_of,
)
from fairseq_el.bench.settings import Settings
from fairseq_el.decoding import disable_el_attention, el_attention_enabled
from fairseq_el.dtypes import DTYPES, place_of
from fairseq_el.errors import FairseqElError, OutOfMemoryError
from fairseq_el.generation import stock_blocker
from fairseq_el.planning import shape_of
from fairseq_el.tasks import ELOptions


class NGramBlockOfWrittenWords(NGramRepeatBlock):
    """Stock's n-gram blocking, given the words written so far only.

    fairseq's generator hands it the whole buffer of tokens. Without its CUDA extension, its last ``n - 1`` columns are
    padding up to the last step, nothing in front equals them, and so nothing is ever blocked. Here it blocks, so that
    stock does the work that the other programs do, and writes what they write.
    """

    def forward(self, tokens: Tensor, lprobs: Tensor, bsz: int, beam_size: int, step: int) -> Tensor:
        return super().forward(tokens[:, : step + 1], lprobs, bsz, beam_size, step)


class FairseqProgram(Program):
    """Methods ``stock``, ``el``, ``shared-kv`` and ``auto``.

    Args:
        model: that decodes, in the place of the checkpoint's; it stays the program's own.

    Attributes:
        continues_prompts: whether the model is a language model. Outputs are then what follows the prompts.
    """

    def __init__(self, settings: Settings, method: Method, model: Any = None):
        self.settings, self.method = settings, method
        self.continues_prompts = reads_prompts(settings.data)
        is_el = method.kind in EL_KINDS
        known = {option.name for option in fields(ELOptions)}
        task = "language_modeling" if self.continues_prompts else "translation"
        self._config = configuration(
            settings, f"el_{task}" if is_el else task, _el_options(settings, method, known) if is_el else []
        )
        self._task = task_of(self._config, settings.data)
        self.model = _load_model(settings, self._task, self.continues_prompts) if model is None else model
        if not is_el and el_attention_enabled(self.model):  # a checkpoint of an el_* architecture
            disable_el_attention(self.model)
        if not is_el or "el_dtype" not in known:
            self.model.to(DTYPES[method.stock_dtype].torch_dtype)
        self.model.to(settings.device)
        self.shape: Dict[str, Any] = asdict(shape_of(self.model))
        self.model.prepare_for_inference_(self._config)
        self.sources = (Prompts if self.continues_prompts else Sources)(self._task, settings.subset)
        self._prompt_length = 0
        self._samples: List[Dict[str, Any]] = []
        self._generators: Dict[int, Any] = {}

    @property
    def max_positions(self) -> Dict[str, int]:
        written = self.model.max_decoder_positions()
        if self.continues_prompts:  # which are read by the same decoder, behind an eos
            return {"max_source": written - 2, "max_target": written - max(self.settings.src_lens, default=0)}
        return {"max_source": self.model.max_positions()[0], "max_target": written}

    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Sentences are numbered from 0 in every batch: diverse beam search of fairseq 0.12.3 goes wrong otherwise."""
        self._samples = []
        self._prompt_length = batches[0][0].numel() if self.continues_prompts and batches else 0
        for batch in batches:
            data = self._dataset(batch, [source.numel() for source in batch])
            sample = data.collater([data[i] for i in range(len(batch))])
            self._samples.append(sample if self.settings.device == "cpu" else utils.move_to_cuda(sample))
        self._generators.clear()

    def _dataset(self, batch: Sequence[Tensor], lengths: List[int]) -> Any:
        if self.continues_prompts:
            return self._task.build_dataset_for_inference(batch, lengths)
        sources = self.sources
        return LanguagePairDataset(batch, lengths, sources.dictionary, left_pad_source=sources.left_pad, shuffle=False)

    def decode(self, tgt_len: int) -> Any:
        generator = self._generator(tgt_len)
        raw = [self._task.inference_step(generator, [self.model], sample) for sample in self._samples]
        self._check_memory(generator)
        return raw

    def _check_memory(self, generator: Any) -> None:
        record = getattr(generator, "memory_record", None)  # stock's have none, and fail by themselves
        if record is not None and record.failed:
            sentences = record.failed[0].num_sentences
            raise OutOfMemoryError(
                f"{self.method.label}: a batch of {sentences} sentences ran out of memory. Times would be "
                "those of smaller ones: choose a smaller --batch."
            )

    def hypotheses(self, raw: Any, with_scores: bool) -> List[ScoredOutput]:
        result: List[ScoredOutput] = []
        for sample, sentences in zip(self._samples, raw):
            best = [self._hypothesis(sentence[0]) for sentence in sentences]
            order = sample["id"].argsort().tolist()  # batches are sorted by length
            result += [best[i] for i in order]
        return result

    def _hypothesis(self, found: Dict[str, Any]) -> ScoredOutput:
        """An output; that of a language model without its prompt, and with a score of its own words alone."""
        begin = self._prompt_length
        tokens, scores = found["tokens"][begin:].tolist(), found["positional_scores"][begin:].tolist()
        score = sum(scores) / len(scores) ** self.settings.lenpen if begin else float(found["score"])
        return ScoredOutput(tokens, score, scores)

    def _generator(self, tgt_len: int) -> Any:
        if tgt_len not in self._generators:
            options = copy.deepcopy(self._config.generation)
            options.max_len_a = 0
            options.max_len_b = self._prompt_length + (tgt_len or self.settings.natural_length)
            options.min_len = self._prompt_length + (tgt_len or 1)
            is_stock = self.method.kind == "stock"
            if is_stock:  # which would try its extension, and read behind a tensor
                options.no_repeat_ngram_size = 0
            generator = self._task.build_generator([self.model], options)
            ngram_size = self.settings.no_repeat_ngram_size
            if is_stock and ngram_size:
                on_cpu = self.settings.device == "cpu"
                generator.repeat_ngram_blocker = (
                    NGramBlockOfWrittenWords(ngram_size, use_extension=False) if on_cpu else stock_blocker(ngram_size)
                )
            self._generators[tgt_len] = generator
        return self._generators[tgt_len]


class ReferenceScores:
    """Log-probabilities of outputs, read in one pass (teacher forced), one sentence at a time to use little memory.
    A language model reads the prompt before them.

    Most programs write the same outputs, so what has been scored is remembered.
    """

    def __init__(self, model: Any, eos: int):
        self._model, self._eos = model, eos
        self._known: Dict[Tuple[Tuple[int, ...], Tuple[int, ...]], List[float]] = {}

    def __call__(self, source: Tensor, tokens: List[int]) -> List[float]:
        """The score of each of ``tokens``. ``source``: ``(n)``."""
        key = (tuple(source.tolist()), tuple(tokens))
        if key not in self._known:
            self._known[key] = self._score(source, tokens)
        return self._known[key]

    def _score(self, source: Tensor, tokens: List[int]) -> List[float]:
        device = place_of(self._model)[0]
        if not hasattr(self._model, "encoder"):
            read_with_prompt = [*source.tolist(), *tokens]
            scores = forced_scores(lambda previous: self._model(previous)[0], read_with_prompt, self._eos, device)
            return scores[source.numel() :]
        read = source.to(device)

        def logits(previous: Tensor) -> Tensor:
            output: Tensor = self._model(read.unsqueeze(0), torch.tensor([read.numel()], device=device), previous)[0]
            return output

        return forced_scores(logits, tokens, self._eos, device)


def _el_options(settings: Settings, method: Method, known: Any) -> List[str]:
    """The options of the EL task that say which method it is, as far as the task has them."""
    wanted = {"el_backend": method.kind, "el_dtype": method.stock_dtype}
    if "el_backend" not in known and method.kind != "el":
        raise FairseqElError(f"{method.kind}: the task el_translation has no option --el-backend here")
    if method.dtype == INT8:
        if "el_weights" not in known:
            raise FairseqElError(f"{method.label}: the task el_translation has no option --el-weights here")
        wanted["el_weights"] = INT8
    result: List[str] = []
    for name, value in wanted.items():
        result += ["--" + name.replace("_", "-"), value] if name in known else []
    result += ["--el-self-attention", settings.self_attention] if settings.self_attention else []
    return result + (["--el-memory-budget", settings.memory_budget] if settings.memory_budget else [])


def _load_model(settings: Settings, task: Any, continues_prompts: bool) -> Any:
    needed = (
        f"a decoder alone, because {settings.data} has no dict.LANG.txt for a pair of languages but the dict.txt of a "
        "language model"
        if continues_prompts
        else "an encoder and a decoder"
    )
    try:
        models, _ = checkpoint_utils.load_model_ensemble([settings.path], task=task)
    except (AttributeError, ValueError) as error:  # fairseq's language modelling refuses, or trips over, other models
        raise FairseqElError(f"{settings.path} can't be loaded ({error}); the benchmark needs {needed}") from error
    (model,) = models
    if not hasattr(model, "decoder") or hasattr(model, "encoder") == continues_prompts:
        raise FairseqElError(f"{settings.path} holds a {type(model).__name__}; the benchmark needs {needed}")
    return model.eval()
