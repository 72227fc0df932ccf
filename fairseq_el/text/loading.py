"""A command line of ``fairseq-interactive`` turned into a task, models, a generator, and the way from text and back."""

from __future__ import annotations

import argparse
import ast
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from fairseq import checkpoint_utils, tasks, utils
from fairseq.data.data_utils import infer_language_pair
from fairseq.models import (
    ARCH_MODEL_REGISTRY,
    MODEL_REGISTRY,
    FairseqEncoderDecoderModel,
    FairseqLanguageModel,
    FairseqMultiModel,
)
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.speech_to_text import SpeechToTextTask

from fairseq_el.cards.check import usable_device
from fairseq_el.errors import FairseqElError, OptionError, UnsupportedModelError
from fairseq_el.failure_report import explain, explain_loading
from fairseq_el.files import require_file
from fairseq_el.generation import ELSequenceGenerator, build_el_generator
from fairseq_el.tasks import el_task_for, explain_by_options, is_of_user
from fairseq_el.text.command_line import Config, import_user_directory_of, parse, parse_some

State = Dict[str, Any]  # a checkpoint, as fairseq has read and upgraded it

_PREFIX = "el_"
_FOR_KINDS = (
    (FairseqLanguageModel, "el_language_modeling"),
    (FairseqEncoderDecoderModel, "el_translation"),
    (FairseqMultiModel, "el_multilingual_translation"),
)


@dataclass
class Settings:
    """A command line, checked as far as that goes without a model.

    Attributes:
        cfg: all options, in fairseq's groups.
        checkpoints: paths of the models.
        first: the first checkpoint, if it was read to learn its task.
    """

    cfg: Config
    checkpoints: List[str]
    overrides: Dict[str, Any]
    first: Optional[State] = None


@dataclass(frozen=True)
class Loaded:
    """All that decodes text.

    Attributes:
        cfg: all options, in fairseq's groups.
        task: a task of fairseq; one of this package where it has one for the models.
        models: those of the ensemble, on the device.
        generator: decodes every sentence as if it were alone.
        encode, decode: text to tokens with a space between them, and back.
        replacements: for ``--replace-unk``; None without.
        longest_source: tokens that the models read; None if that is not limited.
        on_card: whether the models are on a card.
    """

    cfg: Config
    task: Any
    models: List[Any]
    generator: ELSequenceGenerator
    encode: Callable[[str], str]
    decode: Callable[[str], str]
    replacements: Optional[Dict[str, str]]
    longest_source: Optional[int]
    on_card: bool


def read_settings(arguments: Sequence[str]) -> Settings:
    """Reads a command line.

    Args:
        arguments: DATA and the options of ``fairseq-interactive``. A ``--task`` without EL-attention, stock's or one of
            ``--user-dir``, becomes the same task with it. By default it is the one of the first checkpoint.

    Raises:
        OptionError: options can't be used.
        FairseqElError: a checkpoint can't be read.
    """
    with _explained():
        import_user_directory_of(arguments)
        some = parse_some(arguments)
        overrides, checkpoints = _overrides(some), _checkpoints(some)
        name, first = some.task, None
        if name is None:
            first = _read(checkpoints[0], overrides)
            name = _task_for(first, checkpoints[0])
        _refuse_speech(name)
        cfg = parse(arguments, el_task_for(name))
        _take_languages(cfg, first)
        return Settings(cfg, checkpoints, overrides, first)


def load(settings: Settings) -> Loaded:
    """Sets up everything by fairseq's own functions. It takes the checkpoint that the settings hold.

    Raises:
        OptionError: options can't be used; every problem is named.
        FairseqElError: a checkpoint can't be read, does not fit the data, or can't be decoded exactly.
    """
    with _explained():
        cfg = settings.cfg
        task = tasks.setup_task(cfg.task)
        models = _models(settings, task)
        beside = _language_model(settings)
        on_card = _prepare(cfg, [*models, *beside])
        return _with_text(cfg, task, models, _generator(cfg, task, models, beside), on_card)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Puts a message in the place of exceptions of fairseq that options or files have caused."""
    try:
        yield
    except FairseqElError:
        raise
    except Exception as error:
        by_options = _explain_dictionary(error) or explain_by_options(error)
        message = by_options or explain(error)
        if message is None:
            raise
        raise (OptionError if by_options else FairseqElError)(message) from error


def _explain_dictionary(error: Exception) -> Optional[str]:
    """The message for a dictionary that is not there or is damaged; None for another exception."""
    said = str(error)
    if isinstance(error, FileNotFoundError) and Path(str(error.filename)).name.startswith("dict."):
        return f"DATA must be a directory with the dictionaries of the model; there is no {error.filename}"
    for begin in ("Incorrect dictionary format", "Duplicate word found", "Incorrect encoding detected"):
        if said.startswith(begin):
            return (
                f"DATA must have the model's dictionaries, as fairseq-preprocess writes them. {' '.join(said.split())}"
            )
    return None


def _checkpoints(some: argparse.Namespace) -> List[str]:
    if some.path is None:
        raise OptionError("--path must name a checkpoint, or several with a colon in between")
    paths: List[str] = utils.split_paths(some.path)
    if some.checkpoint_shard_count != 1 or some.checkpoint_suffix:
        if some.task is None:
            raise OptionError("--task must be given with --checkpoint-shard-count and --checkpoint-suffix")
        return paths
    for path in paths:
        require_file(path, "--path must be a checkpoint that fairseq wrote")
    return paths


def _overrides(some: argparse.Namespace) -> Dict[str, Any]:
    try:
        found = ast.literal_eval(some.model_overrides)
    except (ValueError, SyntaxError):
        found = None
    if not isinstance(found, dict):
        raise OptionError(
            f"--model-overrides must be a dictionary as in Python, {{'dropout': 0.1}}; it is {some.model_overrides}"
        )
    return found


def _read(path: str, overrides: Dict[str, Any]) -> State:
    """Reads a checkpoint as fairseq does.

    Raises:
        FairseqElError: it is damaged, or is another file.
    """
    try:
        state: State = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
    except MemoryError:
        raise
    except Exception as error:  # torch and fairseq raise many kinds for a file that is not a checkpoint
        raise FairseqElError(explain_loading(path, error)) from error
    if not state.get("cfg") and not state.get("args"):
        raise FairseqElError(f"--path must be a checkpoint that fairseq wrote; {path} has no settings of a model")
    return state


def _setting(state: State, group: str, name: str) -> Any:
    """A setting that a checkpoint was trained with, or None. The ``_name`` of a task is the task."""
    if state.get("cfg"):
        return getattr(state["cfg"].get(group), name, None)
    return getattr(state["args"], {"task": "task", "model": "arch"}[group] if name == "_name" else name, None)


def _task_for(state: State, path: str) -> str:
    """The task that fits a checkpoint."""
    trained = _setting(state, "task", "_name")
    known = trained is not None and (_PREFIX + trained in TASK_REGISTRY or trained.startswith(_PREFIX))
    if known or (trained is not None and is_of_user(trained)):
        return str(trained)
    arch = _setting(state, "model", "arch") or _setting(state, "model", "_name")
    model = ARCH_MODEL_REGISTRY.get(arch) or MODEL_REGISTRY.get(arch)
    for kind, name in _FOR_KINDS:
        if model is not None and issubclass(model, kind):
            return name
    raise OptionError(
        f"--task must be given: {path} was trained with the task {trained} and the architecture {arch}, and neither "
        "says how it is decoded. An architecture of your own must be in a --user-dir"
    )


def _refuse_speech(task: str) -> None:
    if issubclass(TASK_REGISTRY.get(task, object), SpeechToTextTask):
        raise OptionError(
            f"--task must be one that reads text; {task} reads features of speech. Decode them with fairseq-generate "
            "DATA --path model.pt --user-dir fairseq_el --task el_speech_to_text"
        )


def _take_languages(cfg: Config, state: Optional[State]) -> None:
    """Takes -s and -t from a checkpoint where neither the command line nor the names of files in DATA have them."""
    names = ("source_lang", "target_lang")
    if state is None or any(getattr(cfg.task, name, "") is not None for name in names):
        return
    saved = [_setting(state, "task", name) for name in names]
    data = Path(utils.split_paths(cfg.task.data)[0])
    if None in saved or not data.is_dir() or infer_language_pair(str(data))[0] is not None:
        return
    if all((data / f"dict.{language}.txt").exists() for language in saved):
        cfg.task.source_lang, cfg.task.target_lang = saved


def _models(settings: Settings, task: Any) -> List[Any]:
    suffix, num_shards = settings.cfg.checkpoint.checkpoint_suffix, settings.cfg.checkpoint.checkpoint_shard_count
    is_sharded = num_shards != 1 or bool(suffix)
    models: List[Any] = []
    for path in settings.checkpoints:  # one by one: fairseq takes what was read already for a single checkpoint only
        state, settings.first = settings.first, None
        if state is None and not is_sharded:
            state = _read(path, settings.overrides)
        models += checkpoint_utils.load_model_ensemble(
            [path], settings.overrides, task, strict=num_shards == 1, suffix=suffix, num_shards=num_shards, state=state
        )[0]
    return models


def _language_model(settings: Settings) -> List[Any]:
    """The model of ``--lm-path``, as fairseq-generate loads it; none without."""
    path = settings.cfg.generation.lm_path
    if path is None:
        return []
    overrides = {**settings.overrides, "data": settings.cfg.task.data}
    models: List[Any] = checkpoint_utils.load_model_ensemble([path], overrides, task=None)[0]
    return models


def _prepare(cfg: Config, models: List[Any]) -> bool:
    """Makes models ready for inference, on the card if there is one. Returns whether there is."""
    on_card = not cfg.common.cpu and usable_device() == "cuda"
    for model in models:
        if cfg.common.fp16:
            model.half()
        if on_card and not cfg.distributed_training.pipeline_model_parallel:
            model.cuda()
        model.prepare_for_inference_(cfg)
    return on_card


def _generator(cfg: Config, task: Any, models: List[Any], beside: List[Any]) -> ELSequenceGenerator:
    more = {}
    if beside:
        more["extra_gen_cls_kwargs"] = {"lm_model": beside[0], "lm_weight": cfg.generation.lm_weight}
    try:
        generator = build_el_generator(task.build_generator, models, cfg.generation, **more)
    except UnsupportedModelError as error:
        raise FairseqElError(
            "The model can't be decoded with EL-attention, and this program has no other way:\n"
            + "".join(f"  - {reason}\n" for reason in error.reasons)
            + "Decode it with fairseq-interactive."
        ) from error
    if not isinstance(generator, ELSequenceGenerator):
        raise OptionError(
            f"--task must build fairseq's SequenceGenerator; {type(task).__name__} builds a {type(generator).__name__}"
        )
    generator.alone, generator.seed = True, cfg.common.seed
    return generator


def _with_text(cfg: Config, task: Any, models: List[Any], generator: ELSequenceGenerator, on_card: bool) -> Loaded:
    tokenizer, bpe = task.build_tokenizer(cfg.tokenizer), task.build_bpe(cfg.bpe)
    codecs = [codec for codec in (tokenizer, bpe) if codec is not None]

    def encode(text: str) -> str:
        for codec in codecs:
            text = codec.encode(text)
        return text

    def decode(text: str) -> str:
        for codec in reversed(codecs):
            text = codec.decode(text)
        return text

    positions = utils.resolve_max_positions(task.max_positions(), *(model.max_positions() for model in models))
    if isinstance(positions, dict):  # by pairs of languages, of which one is decoded
        (positions,) = positions.values()
    return Loaded(
        cfg=cfg,
        task=task,
        models=models,
        generator=generator,
        encode=encode,
        decode=decode,
        replacements=utils.load_align_dict(cfg.generation.replace_unk),
        longest_source=positions[0] if isinstance(positions, (tuple, list)) else positions,
        on_card=on_card,
    )
