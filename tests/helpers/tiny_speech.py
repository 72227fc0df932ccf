"""Synthetic speech: each word is some frames of its own, with noise. Manifests, features, and tiny models of them."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import build_model, dictionary
from tiny_data import fairseq

WIDTH = 8  # numbers of a frame
WORDS = 12
ARCHITECTURES = ("s2t_transformer", "s2t_conformer", "convtransformer")
SIZES = {
    **{"encoder_embed_dim": 16, "decoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "decoder_ffn_embed_dim": 24},
    **{"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"max_source_positions": 200, "max_target_positions": 40},
}
OF_FRONT_ENDS = {"conv_channels": 12, "conv_kernel_sizes": "5,3"}
OF_2D = {"conv_out_channels": 6}
LANGUAGES = ("aa", "bb")
TAGS = [f"<lang:{language}>" for language in LANGUAGES]


def sizes_of(arch: str) -> dict[str, Any]:
    """The options that make a model of an architecture tiny."""
    return {**SIZES, **(OF_2D if arch == "convtransformer" else OF_FRONT_ENDS)}


def features(words: list[int], seed: int) -> np.ndarray:
    """*Shape:* ``(frames, WIDTH)``, float32; 3 to 7 frames a word."""
    draw = np.random.RandomState(seed)
    centres = np.random.RandomState(0).randn(WORDS, WIDTH) * 2
    frames = [centres[word] + 0.3 * draw.randn(WIDTH) for word in words for _ in range(draw.randint(3, 8))]
    return np.asarray(frames, dtype=np.float32)


def write_speech(directory: Path, sizes: dict[str, int], tags: bool = False, zipped: bool = False) -> Path:
    """DATA of speech.

    Args:
        sizes: number of sentences of each split.
        tags: whether texts begin with the tag of their language.
        zipped: whether features are in an uncompressed zip file, and not in files of their own.
    """
    directory.mkdir(parents=True)
    words = dictionary(WORDS)
    for tag in TAGS if tags else []:
        words.add_symbol(tag)
    words.save(str(directory / "dict.txt"))
    (directory / "config.yaml").write_text(
        f"vocab_filename: dict.txt\ninput_feat_per_channel: {WIDTH}\ninput_channels: 1\n"
        + f"prepend_tgt_lang_tag: {'true' if tags else 'false'}\n"
    )
    for number, (split, size) in enumerate(sizes.items()):
        _write_split(directory, split, size, seed=number, zipped=zipped)
    return directory


def _write_split(directory: Path, split: str, size: int, seed: int, zipped: bool) -> None:
    draw = random.Random(seed)
    sources, texts = {}, []
    for i in range(size):
        words = [draw.randrange(WORDS) for _ in range(draw.randint(1, 7))]
        stream = io.BytesIO()
        found = features(words, seed=1000 * seed + i)
        np.save(stream, found)
        sources[f"{split}{i}.npy"] = stream.getvalue()
        texts.append((len(found), " ".join(f"w{word}" for word in words)))
    places = (_zipped if zipped else _in_files)(directory, split, sources)
    lines = ["id\taudio\tn_frames\ttgt_text\tspeaker\ttgt_lang"]
    lines += [
        f"{split}{i}\t{places[i]}\t{frames}\t{text}\ts\t{LANGUAGES[i % 2]}" for i, (frames, text) in enumerate(texts)
    ]
    (directory / f"{split}.tsv").write_text("".join(f"{line}\n" for line in lines))


def _in_files(directory: Path, split: str, sources: dict[str, bytes]) -> list[str]:
    for name, content in sources.items():
        (directory / name).write_bytes(content)
    return [str(directory / name) for name in sources]


def _zipped(directory: Path, split: str, sources: dict[str, bytes]) -> list[str]:
    path = directory / f"{split}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sources.items():
            archive.writestr(name, content)
    whole = path.read_bytes()
    return [f"{path}:{whole.index(content)}:{len(content)}" for content in sources.values()]


def train(
    data: Path,
    arch: str,
    directory: Path,
    updates: int,
    *more: object,
    task: str = "speech_to_text",
    plugin: bool = False,
) -> Path:
    """A checkpoint that ``fairseq-train`` has written."""
    options = [[f"--{name.replace('_', '-')}", value] for name, value in sizes_of(arch).items()]
    with contextlib.redirect_stderr(io.StringIO()):
        fairseq(
            "train",
            *[data, "--task", task, "--arch", arch, *(word for option in options for word in option)],
            *["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--lr", 0.01, "--max-tokens", 600],
            *["--clip-norm", 1, "--dropout", 0, "--seed", 3, "--max-update", updates, "--save-dir", directory],
            *["--disable-validation", "--no-epoch-checkpoints", "--log-format", "none", *more],
            plugin=plugin,
        )
    return directory / "checkpoint_last.pt"


def build_speech_model(arch: str, words: Any, seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A random model, as of :func:`tiny.build_model`."""
    given = {"input_feat_per_channel": WIDTH, "input_channels": 1, "fp16": False, **sizes_of(arch), **options}
    return build_model(arch, words, seed, dtype, **given)


def speech_batch(lengths: list[int], seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """A batch of noise, the longest source first, as fairseq collates it."""
    generator = torch.Generator().manual_seed(seed)
    ordered = sorted(lengths, reverse=True)
    source = torch.zeros(len(ordered), ordered[0], WIDTH, dtype=dtype)
    for row, length in zip(source, ordered):
        row[:length] = torch.randn(length, WIDTH, generator=generator, dtype=dtype)
    net_input = {"src_tokens": source, "src_lengths": torch.tensor(ordered), "prev_output_tokens": None}
    return {"id": torch.arange(len(ordered)), "net_input": net_input}
