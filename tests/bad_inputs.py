"""Tables of malformed input: a command line, what is changed in a directory of good input, and what is said about it.

The directory has ``model.pt`` (a tiny Transformer) with ``dict.txt``, ``bart/`` (a tiny BART with its dictionary),
``hf/`` (the same as Hugging Face has it), ``recipe.yaml``, ``text``, and ``output.txt`` of fairseq-generate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any, Callable, List, Tuple

import torch
import yaml

Change = Callable[[Path], Any]
Row = Tuple[str, Change, str]

DIGITS = "9" * 400
MANY_DIGITS = "9" * 5000
DEEP = "[" * 100_000


class Hostile:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


# What can be wrong with any file.


def nothing(directory: Path) -> None:
    pass


def content(name: str, text: str | bytes) -> Change:
    return lambda directory: (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))


def cut(name: str, share: float) -> Change:
    def change(directory: Path) -> None:
        whole = (directory / name).read_bytes()
        (directory / name).write_bytes(whole[: int(len(whole) * share)])

    return change


def instead(name: str, make: Callable[[Path], Any]) -> Change:
    """Something else in the place of a file, or where none was."""

    def change(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        make(directory / name)

    return change


def fifo(name: str) -> Change:
    return instead(name, os.mkfifo)


def folder(name: str) -> Change:
    return instead(name, os.mkdir)


def link(name: str, target: str) -> Change:
    return instead(name, lambda path: os.symlink(target, path))


def without(*names: str) -> Change:
    return lambda directory: [(directory / name).unlink() for name in names]


def all_of(*changes: Change) -> Change:
    return lambda directory: [change(directory) for change in changes]


# What can be wrong with a checkpoint.


def state(change: Callable[[Any], Any], name: str = "model.pt", **how: Any) -> Change:
    """With what ``torch.save`` wrote, changed."""

    def apply(directory: Path) -> None:
        loaded = torch.load(directory / name)
        changed = change(loaded)
        torch.save(loaded if changed is None else changed, directory / name, **how)

    return apply


def settings(name: str = "model.pt", **changed: Any) -> Change:
    return state(lambda loaded: vars(loaded["args"]).update(changed), name)


def in_cfg(name: str, arch: str, **changed: Any) -> Change:
    """With settings as fairseq has them since it knows Hydra, the architecture under ``_name``."""

    def change(loaded: Any) -> Any:
        model = {**vars(loaded["args"]), "_name": arch, **changed}
        del model["arch"]
        return {**loaded, "args": None, "cfg": {"model": model, "task": {"_name": "translation"}}}

    return state(change, name)


def entry(key: str, value: Any) -> Change:
    return state(lambda loaded: {**loaded, key: value})


def tensors(name: str = "model.pt", **changed: Any) -> Change:
    """With ``__`` for a dot in a tensor's name; None takes it away."""

    def change(loaded: Any) -> None:
        for key, value in changed.items():
            weight = key.replace("__", ".")
            if value is None:
                del loaded["model"][weight]
            else:
                loaded["model"][weight] = value

    return state(change, name)


def flipped(name: str, record: str) -> Change:
    """One bit of what a record of the archive holds."""

    def change(directory: Path) -> None:
        with zipfile.ZipFile(directory / name) as archive:
            info = next(info for info in archive.infolist() if info.filename.endswith(record))
            whole = archive.read(info)
        content = bytearray((directory / name).read_bytes())
        content[content.index(whole, info.header_offset) + len(whole) // 2] ^= 1
        (directory / name).write_bytes(bytes(content))

    return change


# What can be wrong with JSON and YAML.


def json_keys(name: str, **changed: Any) -> Change:
    def change(directory: Path) -> None:
        values = {**json.loads((directory / name).read_text()), **changed}
        (directory / name).write_text(json.dumps(values))

    return change


def config(**changed: Any) -> Change:
    return json_keys("hf/config.json", **changed)


def recipe(**changed: Any) -> Change:
    """With ``__`` for the dot between keys."""

    def change(directory: Path) -> None:
        values = yaml.safe_load((directory / "recipe.yaml").read_text())
        for key, value in changed.items():
            *outer, last = key.split("__")
            inside = values
            for name in outer:
                inside = inside[name]
            inside[last] = value
        (directory / "recipe.yaml").write_text(yaml.safe_dump(values))

    return change


def yaml_text(text: str) -> Change:
    return content("recipe.yaml", text)


def instead_of_dictionaries(text: str | bytes) -> Change:
    return all_of(*(content(f"bart/{name}", text) for name in ("dict.txt", "dict.source.txt", "dict.target.txt")))


PLAN = "plan --arch bart_base --beam 4 --src-len 10 --tgt-len 10 --dtype fp32 --memory 16GiB"
OF_FILE = PLAN.replace("--arch bart_base", "--path model.pt")
WHOLE = "must be a whole number from"

OPTIONS: List[Row] = [
    ("", nothing, "required: COMMAND"),
    ("nonsense", nothing, "invalid choice: 'nonsense'"),
    (f"{'x' * 5000}", nothing, r"invalid choice: .* \([\d,]+ characters\)"),
    ("plan 'a\nb'", nothing, "."),
    (f"{PLAN} 'two\nlines'", nothing, "unrecognized arguments: two lines"),
    (f"{PLAN} --beam 0", nothing, f"--beam: {WHOLE} 1 on; got '0'"),
    (f"{PLAN} --beam -1", nothing, f"--beam: {WHOLE} 1 on; got '-1'"),
    (f"{PLAN} --beam 2.5", nothing, f"--beam: {WHOLE} 1 on; got '2.5'"),
    (f"{PLAN} --beam ''", nothing, f"--beam: {WHOLE} 1 on; got ''"),
    (f"{PLAN} --beam 1_0", nothing, f"--beam: {WHOLE} 1 on; got '1_0'"),
    (f"{PLAN} --beam ٣", nothing, f"--beam: {WHOLE} 1 on; got '٣'"),
    (f"{PLAN} --beam 99999999999", nothing, f"--beam: {WHOLE} 1 to 2,147,483,647"),
    (f"{PLAN} --src-len {DIGITS}", nothing, f"--src-len: {WHOLE} 1 to 2,147,483,647"),
    (f"{PLAN} --src-len 0", nothing, f"--src-len: {WHOLE} 1 on"),
    (f"{PLAN} --tgt-len {MANY_DIGITS}", nothing, rf"--tgt-len: {WHOLE} 1 to .* \(5,000 characters\)"),
    (f"{PLAN} --tgt-len -5", nothing, f"--tgt-len: {WHOLE} 1 on"),
    (f"{PLAN} --tgt-len nan", nothing, f"--tgt-len: {WHOLE} 1 on"),
    (f"{PLAN} --batch 0", nothing, f"--batch: {WHOLE} 1 on"),
    (f"{PLAN} --dtype int8", nothing, "--dtype: invalid choice: 'int8'"),
    (f"{PLAN} --device tpu", nothing, "--device: invalid choice: 'tpu'"),
    (f"{PLAN} --memory 0", nothing, "--memory: must be above 0, as 16GiB; got '0'"),
    (f"{PLAN} --memory 0GiB", nothing, "--memory: must be above 0"),
    (f"{PLAN} --memory=-1GiB", nothing, "--memory: a size is a number with a unit, .*; got '-1GiB'"),
    (f"{PLAN} --memory many", nothing, "--memory: a size is a number with a unit, .*; got 'many'"),
    (f"{PLAN} --memory 16XB", nothing, "--memory: a size is a number with a unit"),
    (f"{PLAN} --memory inf", nothing, "--memory: a size is a number with a unit"),
    (f"{PLAN} --memory {DIGITS}", nothing, "--memory: a size must be below .* got one of 400 digits"),
    (f"{PLAN} --memory {MANY_DIGITS}GiB", nothing, "--memory: a size must be below .* got one of 5000 digits"),
    (f"{PLAN} --memory 9999999TiB", nothing, "--memory: a size must be below"),
    (f"{PLAN} --overhead {DIGITS}", nothing, "--overhead: a size must be below"),
    (f"{PLAN} --overhead 1e5", nothing, "--overhead: a size is a number with a unit"),
    (f"{PLAN} --node-share 0", nothing, "--node-share: must be above 0 and at most 1"),
    (f"{PLAN} --node-share nan", nothing, "--node-share: must be above 0 and at most 1; got 'nan'"),
    (f"{PLAN} --node-share 1e999", nothing, "--node-share: must be above 0 and at most 1"),
    (f"{PLAN} --el-encoder-tokens 0", nothing, f"--el-encoder-tokens: {WHOLE} 1 on"),
    (f"{PLAN} --vocab-size 0", nothing, f"--vocab-size: {WHOLE} 1 on"),
    (f"{PLAN} --vocab-size 1000000000", nothing, "--vocab-size must be at most (10,0|5)00,000; got 1,000,000,000"),
    (f"{PLAN} --vocab-size {DIGITS}", nothing, f"--vocab-size: {WHOLE} 1 to"),
    (PLAN.replace("bart_base", "nonsense"), nothing, "--arch must be one of fairseq's architectures"),
    (PLAN.replace("bart_base", "''"), nothing, "--arch must be one of fairseq's architectures"),
    (PLAN.replace("bart_base", "lightconv --vocab-size 9"), nothing, "lightconv can't be planned for"),
    (f"{PLAN} --path model.pt", nothing, "not allowed with argument"),
    (f"{PLAN} --plot out.txt", nothing, "--plot must name a .png, .pdf or .svg file; got out.txt"),
    (f"{PLAN} --memory 1KiB --batch 1 --plot hf", nothing, "--plot must name a .png"),
    (f"{PLAN} --memory 1KiB --plot new/x.png", nothing, "not one sentence fits"),
    ("bench . --path model.pt --out new", nothing, "for a pair of languages; \\. has no dict"),
    (f"{PLAN} --plot {'x' * 300}.png", nothing, "File name too long"),
    (f"{PLAN} --plot text/new/x.png", nothing, "--plot text/new/x.png must be in a directory .*/text is a file"),
    ("bench", nothing, "bench needs DATA and --path model.pt, or --calibrate alone"),
    ("bench .", nothing, "bench needs DATA and --path"),
    ("bench nowhere --path model.pt", nothing, "there is no directory nowhere"),
    ("bench text --path model.pt", nothing, "there is no directory text"),
    ("bench . --path nowhere.pt", nothing, "nowhere.pt does not exist"),
    ("bench . --path hf", nothing, "--path must be a checkpoint that fairseq wrote; hf is a directory"),
    ("bench . --path model.pt", lambda directory: flipped("model.pt", "data/0")(directory), "model.pt is damaged"),
    ("bench . --path pipe", fifo("pipe"), "pipe is a FIFO"),
    ("bench . --path model.pt --methods ''", nothing, "--methods must name methods"),
    ("bench . --path model.pt --methods stock,nonsense", nothing, "--methods must name methods .* got 'nonsense'"),
    ("bench . --path model.pt --methods el,el", nothing, "--methods names el@fp32 2 times"),
    ("bench . --path model.pt --methods el@int3", nothing, "the dtype of a method must be one of"),
    ("bench . --path model.pt --methods ct2", nothing, "ct2 needs a compute type"),
    ("bench . --path model.pt --methods ct2:int8:0x1", nothing, "the threads of ct2 must be BATCHESxTHREADS"),
    ("bench . --path model.pt --baseline hf", nothing, "--baseline must be one of the methods"),
    ("bench . --path model.pt --batch 0", nothing, f"--batch: {WHOLE} 1 on"),
    ("bench . --path model.pt --batch 1,,2", nothing, f"--batch: {WHOLE} 1 on; got ''"),
    ("bench . --path model.pt --batch 1,1", nothing, "--batch: must name every number once"),
    (f"bench . --path model.pt --src-len {DIGITS}", nothing, f"--src-len: {WHOLE} 1 to"),
    ("bench . --path model.pt --threads 100000", nothing, f"--threads: {WHOLE} 1 to 1,024"),
    ("bench . --path model.pt --lenpen nan", nothing, "--lenpen: must be a number; got 'nan'"),
    ("bench . --path model.pt --lenpen 1e999", nothing, "--lenpen: must be a number; got '1e999'"),
    ("bench . --path model.pt --per-step", nothing, "--per-step needs a --tgt-len from 4 on; got 0"),
    ("bench . --path model.pt --diverse-beam-groups 3", nothing, "--beam must be a multiple of --diverse-beam-groups"),
    ("bench . --path model.pt --out text", nothing, "--out must be a directory; text is"),
    ("bench --calibrate . --path model.pt", nothing, "--calibrate decodes nothing"),
    ("bench --calibrate --out new", nothing, "--calibrate decodes nothing"),
    ("bench slim --lengths 0", nothing, "--lengths must be at least 2; got 0"),
    ("bench slim --lengths ''", nothing, f"--lengths: {WHOLE} 0 on"),
    (f"bench slim --slices {MANY_DIGITS}", nothing, f"--slices: {WHOLE} 0 to"),
    ("bench slim --layers 1000000000", nothing, f"--layers: {WHOLE} 1 to 1,000"),
    ("bench slim --width 6", nothing, "--width must be a multiple of 4"),
    ("bench slim --configuration 9", nothing, "invalid choice: 9"),
    ("bench slim --authors . --feature-map favor+", nothing, "--authors draws other random features"),
    ("bench topk --k 0", nothing, f"--k: {WHOLE} 1 on"),
    ("bench topk --lengths 1", nothing, "--lengths must be at least 2"),
    ("bench topk --directions sideways", nothing, "--directions: must name directions"),
    ("bench topk --methods nonsense", nothing, "nonsense"),
    ("bench topk --memory 0", nothing, "--memory: must be above 0"),
    (f"bench topk --memory {DIGITS}GB", nothing, "--memory: a size must be below"),
    ("bench topk --baseline nonsense", nothing, "--baseline must be one of the methods"),
    ("verify", nothing, "required: DATA, --path"),
    ("verify nowhere --path model.pt", nothing, "there is no directory nowhere"),
    ("verify text --path model.pt", nothing, "there is no directory text"),
    ("verify . --path nowhere.pt", nothing, "nowhere.pt does not exist"),
    ("verify . --path nowhere.pt --task translation", nothing, "nowhere.pt does not exist"),
    ("verify . --path pipe --task translation", fifo("pipe"), "pipe is a FIFO"),
    ("verify . --path model.pt --path model.pt --path model.pt", nothing, "--path can be given once or twice; got 3"),
    ("verify . --path model.pt --path model.pt", nothing, "--path must name two different checkpoints"),
    ("verify . --path model.pt --task nonsense", nothing, "--task must be one of .*; got nonsense"),
    ("verify . --path model.pt", content("model.pt", "text"), "model.pt (could not be read|was not loaded)"),
]

INFO = "convert info model.pt"
STRIP = "convert strip model.pt --out new.pt"
MERGE = "convert strip a-shard0.pt a-shard1.pt --merge --out new.pt"
_TWO_SHARDS = [lambda d, i=i: shutil.copy(d / "model.pt", d / f"a-shard{i}.pt") for i in range(2)]
_Q = "encoder__layers__0__self_attn__q_proj__weight"


def _shards(*changes: Change) -> Change:
    return all_of(*_TWO_SHARDS, *changes)


CHECKPOINTS: List[Row] = [
    ("convert info nowhere.pt", nothing, "CKPT must be a checkpoint that fairseq wrote; nowhere.pt does not exist"),
    ("convert info hf", nothing, "hf is a directory"),
    ("convert info pipe", fifo("pipe"), "pipe is a FIFO"),
    ("convert strip pipe --out new.pt", fifo("pipe"), "pipe is a FIFO"),
    (OF_FILE.replace("model.pt", "pipe"), fifo("pipe"), "pipe is a FIFO"),
    ("convert info /dev/zero", nothing, "/dev/zero is a device"),
    ("convert to-el /dev/null --out new.pt", nothing, "/dev/null is a device"),
    ("convert info gone", link("gone", "nowhere"), "gone is a link to nowhere, which does not exist"),
    ("convert info circle", link("circle", "circle"), "circle can't be opened: Too many levels of symbolic links"),
    (f"convert info {'x' * 300}", nothing, "can't be opened: File name too long"),
    ("convert info model.pt/x", nothing, "model.pt/x can't be opened: Not a directory"),
    (INFO, content("model.pt", ""), "could not be read"),
    (INFO, content("model.pt", "{}"), "(could not be read|was not loaded)"),
    (INFO, content("model.pt", b"\x80\x02}q\x00."), "(could not be read|was not loaded|must be a checkpoint)"),
    (INFO, content("model.pt", b"PK\x05\x06" + b"\0" * 18), "could not be read"),
    (INFO, cut("model.pt", 0.999), "could not be read"),
    (INFO, cut("model.pt", 0.5), "could not be read"),
    (STRIP, cut("model.pt", 0.01), "could not be read"),
    (OF_FILE, cut("model.pt", 0.9), "could not be read"),
    (INFO, flipped("model.pt", "data/0"), "model.pt is damaged: the checksum of .*data/0 is not that of what it holds"),
    (STRIP, flipped("model.pt", "data/3"), "model.pt is damaged: the checksum of .*data/3"),
    (STRIP, flipped("model.pt", "data.pkl"), "model.pt is damaged: the checksum of .*data.pkl"),
    (OF_FILE, flipped("model.pt", "data/1"), "model.pt is damaged"),
    ("convert to-el model.pt --out new.pt", flipped("model.pt", "version"), "model.pt is damaged"),
    ("verify . --path model.pt", flipped("model.pt", "data/1"), "model.pt is damaged"),
    (INFO, all_of(state(lambda s: s, _use_new_zipfile_serialization=False), cut("model.pt", 0.8)), "could not be read"),
    (INFO, entry("extra_state", Hostile()), "model.pt was not loaded: it needs .*system"),
    (STRIP, entry("model", Hostile()), "model.pt was not loaded: it needs .*system"),
    (OF_FILE, entry("args", Hostile()), "model.pt was not loaded: it needs .*system"),
    (STRIP, state(lambda s: [1]), "It holds a list"),
    (STRIP, state(lambda s: "text"), "It holds a str"),
    (STRIP, state(lambda s: {}), 'It has no "model" but nothing'),
    (STRIP, entry("model", {}), 'Its "model" is empty'),
    (STRIP, entry("model", [torch.ones(1)]), 'Its "model" is a list, not a dictionary of tensors'),
    (STRIP, entry("model", {"a": "b"}), 'Its "model" is a dict, not a dictionary of tensors'),
    (STRIP, entry("model", {1: torch.ones(1)}), 'Names in its "model" must be texts; one is 1'),
    (INFO, tensors(x=torch.ones(2, 2).to_sparse()), "(plain numbers in memory; x are not|_rebuild_sparse)"),
    (STRIP + " --bf16", tensors(x=torch.ones(1).expand(10**12)), "Its tensors must be plain numbers in memory; x"),
    (STRIP, entry("args", None), 'It has no "cfg" and no "args"'),
    (STRIP, entry("args", "text"), """Its "args" must be settings; it is 'text'"""),
    (STRIP, entry("args", [1]), 'Its "args" must be settings'),
    (STRIP, entry("args", {1: 2}), 'The settings in its "args" must have names that are texts'),
    (STRIP, entry("cfg", 7), 'Its "cfg" must be settings; it is 7'),
    (STRIP, entry("cfg", {"model": [1]}), 'Its "cfg.model" must be settings'),
    (STRIP, entry("cfg", {"task": "x"}), 'Its "cfg.task" must be settings'),
    (STRIP, entry("optimizer_history", "x"), 'Its "optimizer_history" must be a list of dictionaries'),
    (INFO, entry("optimizer_history", [[1]]), 'Its "optimizer_history" must be a list of dictionaries'),
    (INFO, entry("optimizer_history", [{"num_updates": "1"}]), '"num_updates" .* must be a whole number'),
    (STRIP + " --fp16", tensors(**{_Q: torch.full((16, 16), 1e9)}), "every weight must stay finite in float16"),
    (OF_FILE, entry("args", argparse.Namespace()), "--path must be a checkpoint of a Transformer.* has no .setting"),
    ("convert to-stock model.pt --out new.pt", nothing, "to-stock needs an architecture el_"),
    ("convert to-el model.pt --out new.pt", settings(arch="el_transformer"), "has el_transformer already"),
    ("convert to-el model.pt --out new.pt", settings(arch="fconv"), "to-el needs one of fairseq's architectures"),
    ("convert to-el model.pt --out new.pt", settings(arch=["x"]), "to-el needs one of fairseq's architectures"),
    ("convert to-el model.pt --out model.pt", nothing, "model.pt"),
    ("convert to-el model.pt --out hf", nothing, "hf"),
    ("convert to-el model.pt --out nowhere/new.pt", nothing, "nowhere"),
    ("convert to-el model.pt --out text/new.pt", nothing, "text"),
    (f"convert to-el model.pt --out {'x' * 300}.pt", nothing, "x"),
    ("convert strip model.pt model.pt --out new.pt", nothing, "strip takes one checkpoint, or several"),
    ("convert strip model.pt bart/model.pt --average --out new.pt", nothing, "must have the same weights as"),
    ("convert strip model.pt nowhere.pt --average --out new.pt", nothing, "nowhere.pt does not exist"),
    ("convert strip model.pt --merge --out new.pt", nothing, "names end in -shard0.pt"),
    ("convert strip a-shard1.pt --merge --out new.pt", _shards(), "names end in -shard0.pt"),
    ("convert strip a-shard0.pt a-shard0.pt --merge --out new.pt", _shards(), "names end in -shard0.pt"),
    (MERGE, _shards(), "a-shard0.pt has no fsdp_metadata; a-shard1.pt has no fsdp_metadata"),
    (MERGE, _shards(settings("a-shard1.pt", arch="fconv")), "a-shard1.pt is of fconv"),
    (MERGE, _shards(*(state(lambda s: {**s, "fsdp_metadata": 7}, f"a-shard{i}.pt") for i in (0, 1))), "--merge|shards"),
    (INFO + " --data nowhere", nothing, "--data must be a directory with dictionaries"),
    (INFO + " --data text", nothing, "--data must be a directory with dictionaries"),
    (INFO, content("dict.txt", "one two three\n"), "dict.txt must be a dictionary, with a word and its count"),
    (INFO, content("dict.txt", "word\n"), "dict.txt must be a dictionary"),
    (INFO, content("dict.txt", "word 1\nword 2\n"), "dict.txt must be a dictionary.* no word twice"),
    (INFO, content("dict.txt", b"\xff\xfe 1\n"), "dict.txt must be a dictionary"),
    (INFO, content("dict.txt", f"word {MANY_DIGITS}\n"), "dict.txt must be a dictionary"),
]

TO = "convert to-hf bart --out new"
BART = "bart/model.pt"
SIZES: List[Row] = [  # settings that say more, or something else, than the weights
    (
        OF_FILE,
        settings(encoder_attention_heads="many"),
        "heads must be a number above 0; it is 'many'",
    ),
    (OF_FILE, settings(encoder_attention_heads="4"), "encoder_attention_heads must be a number above 0; it is '4'"),
    (OF_FILE, settings(decoder_attention_heads=[4]), r"decoder_attention_heads must be a number above 0; it is \[4\]"),
    (OF_FILE, settings(decoder_attention_heads=True), "decoder_attention_heads must be a number above 0; it is True"),
    (OF_FILE, settings(decoder_attention_heads=-1), "decoder_attention_heads must be a number above 0; it is -1"),
    (OF_FILE, settings(decoder_attention_heads=10**400), "must be at most .* more than 20 digits"),
    (OF_FILE, settings(encoder_layers=10**9), "encoder_layers must be at most 1,000; it is 1000000000"),
    (OF_FILE, settings(encoder_normalize_before="yes"), "encoder_normalize_before must be true or false; it is 'yes'"),
    (OF_FILE, settings(activation_fn=3), "activation_fn must be a text; it is 3"),
    (OF_FILE, settings(dropout=float("nan")), "dropout must be from 0 to 1; it is nan"),
    (OF_FILE, tensors(encoder__layers__0__fc1__weight=None), "has no 'encoder.layers.0.fc1.weight'"),
    (OF_FILE, tensors(encoder__layers__0__fc1__weight=torch.ones(3)), "fc1.weight of 1 dimensions"),
    (OF_FILE, tensors(decoder__embed_tokens__weight=torch.tensor(1.0)), "embed_tokens.weight of 0 dimensions"),
    (TO, in_cfg(BART, "bart_base", max_target_positions=10**12), "must be at most 1,000,000"),
    (TO, in_cfg(BART, "bart_base", encoder_layers="2"), "encoder_layers must be a number from 0 on; it is '2'"),
    (OF_FILE, in_cfg("model.pt", "transformer", decoder_attention_heads=[]), "decoder_attention_heads must be"),
    (TO, flipped(BART, "data/2"), "bart/model.pt is damaged"),
    (TO, settings(BART, decoder_layers=10**9), "decoder_layers must be at most"),
    (
        TO,
        settings(BART, decoder_layers=7),
        "decoder_layers is 7, and its weights",
    ),
    (
        TO,
        settings(BART, max_target_positions=10**12),
        "must be at most 1,000,000",
    ),
    (
        TO,
        settings(BART, encoder_ffn_embed_dim=5),
        "is 5, and its weights have 24",
    ),
    (
        TO,
        settings(BART, encoder_attention_heads=3),
        "no multiple of the encoder's 3",
    ),
    (TO, settings(BART, dropout="x"), "dropout must be from 0 to 1; it is 'x'"),
    (TO, settings(BART, activation_fn="x"), "its activation is x"),
    (TO, tensors(BART, **{_Q: torch.ones(3, 4)}), r"must be \(16, 16\) by its"),
    (
        TO,
        tensors(BART, **{_Q: None}),
        "it has no encoder.layers.0.self_attn.q_proj",
    ),
    (TO, instead_of_dictionaries("w 1\n"), "rows and the dictionary 5 symbols"),
    (TO, instead_of_dictionaries(b"\xff 1\n"), "must be a dictionary"),
    ("convert to-hf bart --out new --data nowhere", nothing, "the dictionary must lie beside the checkpoint"),
    ("convert to-hf hf --out new", nothing, "CKPT must be a checkpoint, or a directory with model.pt; hf has no"),
    (TO, content("bart/generate.args", "--beam many\n"), "generate.args must hold options"),
    (TO, content("bart/generate.args", b"\xff\n"), "generate.args must be text"),
    (TO, content("bart/generate.args", "'\n"), "generate.args must hold options"),
    ("convert to-hf bart --out bart", nothing, "bart"),
    ("convert to-hf bart --out text", nothing, "text"),
]

FROM = "convert from-hf hf --out new"
_ARGS = "bart/generate.args"
_NEED = "generate.args must hold options of fairseq-generate"
HUGGING_FACE: List[Row] = [
    (TO, fifo(_ARGS), "generate.args is a FIFO"),
    (TO, fifo("bart/vocab.bpe"), "vocab.bpe is a FIFO"),
    (TO, content("bart/vocab.bpe", b"\xff"), "vocab.bpe must be GPT-2's merges, in UTF-8; byte 0"),
    (TO, content(_ARGS, b"\xff"), "generate.args must be text, in UTF-8; byte 0"),
    (TO, content(_ARGS, "--beam x\n"), f"{_NEED}, .* 'x'"),
    (TO, content(_ARGS, "--beam 0\n"), f"{_NEED}, .* num_beams would be 0"),
    (TO, content(_ARGS, f"--beam {DIGITS}\n"), f"{_NEED}, .* num_beams would be a number of more than 20 digits"),
    (TO, content(_ARGS, "--lenpen nan\n"), f"{_NEED}, .* length_penalty would be nan"),
    (TO, content(_ARGS, "--min-len -5\n"), f"{_NEED}, .* min_length would be -4"),
    (TO, content(_ARGS, "'"), f"{_NEED}, .* No closing quotation"),
    (TO, content(_ARGS, "--el-source-template 9,X,2\n"), "--el-source-template in generate.args must be 0,X,2"),
    ("convert from-hf nowhere --out new", nothing, "there is no directory nowhere"),
    ("convert from-hf model.pt --out new", nothing, "there is no directory model.pt"),
    ("convert from-hf bart --out new", nothing, "bart has no config.json"),
    (FROM, content("hf/config.json", ""), "config.json must be a JSON file"),
    (FROM, content("hf/config.json", "{"), "config.json must be a JSON file; JSONDecodeError"),
    (FROM, content("hf/config.json", "[]"), "config.json must hold a JSON object; it holds a list"),
    (FROM, content("hf/config.json", DEEP), "config.json must be a JSON file; (RecursionError|JSONDecodeError)"),
    (FROM, config(a=json.loads("[" * 200 + "]" * 200)), "it is nested more than 100 levels deep"),
    (FROM, content("hf/config.json", '{"d_model": ' + MANY_DIGITS + "}"), "config.json|d_model|model_type"),
    (FROM, content("hf/config.json", b'{"a": "\xff"}'), "config.json must be a JSON file, in UTF-8; byte 7"),
    (FROM, content("hf/config.json", r'{"a": "\ud800"}'), "config.json must be a JSON file; UnicodeEncodeError"),
    (FROM, content("hf/config.json", '{"a": 1, "a": 2}'), "ValueError: 'a' is there twice, with different values"),
    (FROM, fifo("hf/config.json"), "config.json is a FIFO"),
    (FROM, folder("hf/config.json"), "config.json is a directory"),
    (FROM, link("hf/config.json", "/dev/zero"), "config.json is a device"),
    (FROM, config(model_type=["bart"]), r"model_type in .* it is \['bart'\]"),
    (FROM, config(model_type="x" * 5000), r"model_type in .* \([\d,]+ characters\)"),
    (FROM, config(architectures=7), "architectures in .* it has 7"),
    (FROM, config(encoder_layers="2"), "encoder_layers must be a number above 0; it is '2'"),
    (FROM, config(encoder_layers=True), "encoder_layers must be a number above 0; it is True"),
    (FROM, config(encoder_layers=10**9), "encoder_layers must be at most 1,000; it is 1000000000"),
    (FROM, config(encoder_layers=999), "must be those of a BART model .* is missing"),
    (FROM, config(vocab_size=10**9), "vocab_size must be at most 10,000,000"),
    (FROM, config(vocab_size=9_999_999), r"must be \(9999999, 16\) by config.json"),
    (FROM, config(vocab_size=int(DIGITS)), "vocab_size must be at most .* more than 20 digits"),
    (FROM, config(max_position_embeddings=10**9), "max_position_embeddings must be at most 1,000,000"),
    (FROM, config(d_model=-16), "d_model must be a number above 0; it is -16"),
    (FROM, config(d_model=16.0), "d_model must be a number above 0; it is 16.0"),
    (FROM, config(d_model=None), "d_model must be a number above 0; it is None"),
    (FROM, config(encoder_attention_heads=0), "encoder_attention_heads must be a number above 0; it is 0"),
    (FROM, config(encoder_attention_heads=5), "the width must be a multiple of the heads"),
    (FROM, config(dropout=float("nan")), "dropout must be from 0 to 1; it is nan"),
    (FROM, config(dropout=True), "dropout must be from 0 to 1; it is True"),
    (FROM, config(activation_function=["gelu"]), "activation_function must be one of gelu"),
    (FROM, config(scale_embedding="no"), "scale_embedding must be true or false; it is 'no'"),
    (
        FROM,
        all_of(config(eos_token_id=-1), without("hf/generation_config.json")),
        "ids of special tokens must be below vocab_size",
    ),
    (
        FROM,
        all_of(config(decoder_start_token_id="x"), without("hf/generation_config.json")),
        "decoder_start_token_id must be one of the model's",
    ),
    (FROM, config(task_specific_params=[1]), "task_specific_params must be settings by task"),
    (
        FROM,
        json_keys("hf/generation_config.json", num_beams="4"),
        "settings must be numbers; num_beams is '4'",
    ),
    (FROM, json_keys("hf/generation_config.json", num_beams=float("inf")), "must be numbers; num_beams is inf"),
    (FROM, json_keys("hf/generation_config.json", max_length=int(DIGITS)), "max_length is a number of more than 20"),
    (FROM, json_keys("hf/generation_config.json", bad_words_ids="x"), "bad_words_ids must be a list of words' ids"),
    (FROM, content("hf/generation_config.json", "nonsense"), "generation_config.json must be a JSON file"),
    (FROM, content("hf/vocab.json", "[1]"), "vocab.json must hold a JSON object"),
    (FROM, content("hf/vocab.json", '{"a": 1e400}'), "tokenizer's files in hf must be .* whole numbers .* one is inf"),
    (FROM, content("hf/vocab.json", '{"a": -1}'), "ids of tokens must be whole numbers"),
    (FROM, content("hf/vocab.json", '{"a": 1.5}'), "ids of tokens must be whole numbers"),
    (FROM, content("hf/vocab.json", '{"a": 0, "b": 0}'), "every token must have an id of its own; 'a' has that of 'b'"),
    (FROM, content("hf/vocab.json", '{"a": ' + DIGITS + "}"), "ids of tokens must be whole numbers"),
    (FROM, content("hf/added_tokens.json", '{"a": []}'), "ids of tokens must be whole numbers"),
    (FROM, json_keys("hf/tokenizer_config.json", added_tokens_decoder=[1]), "tokenizer's files in hf must be"),
    (FROM, json_keys("hf/tokenizer_config.json", added_tokens_decoder={"x": {}}), "tokenizer's files in hf must be"),
    (FROM, content("hf/merges.txt", "a b c\n"), "merges of the tokenizer in hf must be pairs of symbols"),
    (FROM, content("hf/merges.txt", b"\xff\n"), "merges of the tokenizer in hf must be pairs of symbols"),
    (FROM, content("hf/model.safetensors", ""), "model.safetensors could not be read"),
    (FROM, cut("hf/model.safetensors", 0.9), "model.safetensors could not be read"),
    (FROM, content("hf/model.safetensors", b"\xff" * 64), "model.safetensors could not be read"),
    (FROM, fifo("hf/model.safetensors"), "model.safetensors is a FIFO"),
    (FROM, folder("hf/model.safetensors"), "model.safetensors is a directory"),
    (FROM, without("hf/model.safetensors"), "must have its weights in model.safetensors"),
    (
        FROM,
        all_of(without("hf/model.safetensors"), lambda d: torch.save({"x": Hostile()}, d / "hf" / "pytorch_model.bin")),
        "pytorch_model.bin was not loaded: it needs .*system",
    ),
    (
        FROM,
        all_of(
            without("hf/model.safetensors"),
            lambda d: torch.save({"x": torch.ones(99)}, d / "hf" / "pytorch_model.bin"),
            flipped("hf/pytorch_model.bin", "data/0"),
        ),
        "pytorch_model.bin is damaged",
    ),
    (
        FROM,
        all_of(without("hf/model.safetensors"), content("hf/model.safetensors.index.json", '{"weight_map": []}')),
        "must have a weight_map",
    ),
    (
        FROM,
        all_of(without("hf/model.safetensors"), content("hf/model.safetensors.index.json", '{"weight_map": {"a": 7}}')),
        "every shard that the index names must lie in hf; missing: 7",
    ),
    ("convert from-hf hf --out hf", nothing, "hf"),
    ("convert from-hf hf --out text", nothing, "text"),
    ("convert from-hf hf --out text/new", nothing, "text"),
]

RECIPE = "recipe preprocess recipe.yaml --work ."
_SHA = "0" * 64
_BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij"))


def url(address: str) -> Change:
    return recipe(files={"model.pt": {"url": address, "sha256": _SHA}})


RECIPES: List[Row] = [
    ("recipe", nothing, "required: STEP, CONFIG"),
    ("recipe polish recipe.yaml", nothing, "invalid choice: 'polish'"),
    ("recipe score nowhere.yaml", nothing, "CONFIG must be a YAML file that can be read; nowhere.yaml does not exist"),
    ("recipe score hf", nothing, "hf is a directory"),
    ("recipe score pipe", fifo("pipe"), "pipe is a FIFO"),
    ("recipe score /dev/zero", nothing, "/dev/zero is a device"),
    ("recipe score recipe.yaml --work text", nothing, "text"),
    (RECIPE, yaml_text(""), "must be a mapping; got None"),
    (RECIPE, yaml_text("- a\n"), "must be a mapping; got a list"),
    (RECIPE, yaml_text("a: [1"), "CONFIG must be YAML; recipe.yaml is not: line 1"),
    (RECIPE, yaml_text("a:\n\tb: 1\n"), "CONFIG must be YAML; recipe.yaml is not: line 2, column 1"),
    (RECIPE, yaml_text("a: 1\na: 2\n"), "line 1, column 1: a is there 2 times"),
    (RECIPE, yaml_text("decoding: {beam: 1, beam: 2}\n"), "beam is there 2 times"),
    (RECIPE, yaml_text("--- a\n--- b\n"), "CONFIG must be YAML"),
    (RECIPE, yaml_text("a: !!python/object/apply:os.system [touch HACKED]\n"), "CONFIG must be YAML; .* could not det"),
    (RECIPE, yaml_text("a: 2020-99-99\n"), "CONFIG must be YAML; .* ValueError"),
    (RECIPE, yaml_text("a: !!int x\n"), "CONFIG must be YAML; .* ValueError"),
    (RECIPE, yaml_text("# " + "x" * 300_000), "CONFIG must have at most 200,000 characters"),
    (RECIPE, yaml_text(DEEP[:5000]), "CONFIG must be YAML; .* RecursionError"),
    (RECIPE, yaml_text("{[a]: b}\n"), "CONFIG must be YAML"),
    (RECIPE, yaml_text("&a [*a]\n"), "nested too deep, or in itself"),
    (RECIPE, yaml_text("*a\n"), "CONFIG must be YAML"),
    (RECIPE, yaml_text(_BOMB), "a is not known"),
    (RECIPE, content("recipe.yaml", b"\xff"), "CONFIG must be a YAML file that can be read, in UTF-8; byte 0"),
    (RECIPE, content("recipe.yaml", "a: \x00\n"), "CONFIG must be YAML"),
    (RECIPE, recipe(task=7), "task must be a text; got 7"),
    (RECIPE, recipe(task="x" * 5000), r"task must be one of .* \([\d,]+ characters\)"),
    (RECIPE, recipe(languages=["d/e", "f"]), "languages must be names of letters and digits, such as de; got 'd/e'"),
    (RECIPE, recipe(languages=["..", "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["-x", "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["", "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["d e", "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["bpe.en", "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["x" * 300, "en"]), "languages must be names"),
    (RECIPE, recipe(languages=["en", "en"]), "languages must be two different names"),
    (RECIPE, recipe(languages=["en"]), "languages must be a list of two texts"),
    (RECIPE, recipe(languages=[1, 2]), "languages must be a list of two texts"),
    (RECIPE, recipe(text=None), "text must be a list of two texts"),
    (RECIPE, recipe(checkpoint=["x"]), "checkpoint must be a text; got a list"),
    (RECIPE, recipe(dictionary={}), "dictionary must be a text or a list of two texts"),
    (RECIPE, recipe(bpe="split"), "bpe must be a mapping"),
    (RECIPE, recipe(bpe__name=None), "bpe.name must be a text"),
    (RECIPE, recipe(max_source=2.5), "max_source must be a whole number; got 2.5"),
    (RECIPE, recipe(max_source=True), "max_source must be a whole number; got True"),
    (RECIPE, recipe(max_source=int(DIGITS)), "max_source must be a number up to 2,147,483,647"),
    (RECIPE, recipe(batch_size=0), "batch_size must be at least 1; got 0"),
    (RECIPE, recipe(dtype="int4"), "dtype must be one of"),
    (RECIPE, recipe(begin="yes"), "begin must be true or false"),
    (RECIPE, recipe(prompt_end="a\0b"), "prompt_end must be a text of whole characters, without NUL"),
    (RECIPE, recipe(decoding=None), "decoding must be a mapping"),
    (RECIPE, recipe(decoding__beam=0), "decoding.beam must be at least 1; got 0"),
    (RECIPE, recipe(decoding__beam=-5), "decoding.beam must be at least 1"),
    (RECIPE, recipe(decoding__max_len_b=0), "decoding.max_len_b must be at least 1"),
    (RECIPE, recipe(decoding__lenpen=float("nan")), "decoding.lenpen must be a number up to .*; got nan"),
    (RECIPE, recipe(decoding__lenpen=int(DIGITS)), "decoding.lenpen must be a number; got a number of more than 20"),
    (RECIPE, recipe(decoding__max_len_a=float("inf")), "decoding.max_len_a must be a number up to"),
    (RECIPE, recipe(decoding__min_len=-1), "decoding.min_len must be at least 0"),
    (RECIPE, recipe(scoring={"metrics": "bleu,blue"}), "scoring.metrics must name metrics out of bleu, chrf, rouge"),
    (RECIPE, recipe(scoring={"tokenize": "x"}), "scoring.tokenize must be one of"),
    (RECIPE, recipe(scoring={"sentences": "x"}), "scoring.sentences must be one of"),
    (RECIPE, recipe(nonsense=1), "nonsense is not known"),
    (RECIPE, recipe(files=[1]), "files must be a mapping; got a list"),
    (RECIPE, recipe(files={"model.pt": None}), "files.model.pt must be a mapping; got None"),
    (RECIPE, recipe(files={"a\0b": {"where": "x"}}), "without NUL"),
    (RECIPE, recipe(files={"../up": {"where": "x"}}), "its name must stay in the working directory"),
    (RECIPE, recipe(files={"model.pt": {"copy": "/etc/passwd"}}), "must have relative paths"),
    (RECIPE, url("file:///etc/passwd"), "files.model.pt.url must be one of http:// or https://; got 'file:"),
    (RECIPE, url("ftp://example.com/x"), "url must be one of http:// or https://"),
    (RECIPE, url("example.com/x"), "url must be one of http:// or https://"),
    (RECIPE, url("http://"), "url must be one of http:// or https://"),
    (RECIPE, url("http://[::1/x"), "url must be one of http:// or https://; Invalid IPv6 URL"),
    (RECIPE, url("http://host:port/x"), "url must be one of http:// or https://; Port could not be cast"),
    (RECIPE, url("http://host:99999/x"), "url must be one of http:// or https://; Port out of range"),
    (RECIPE, url("http://a..b/x"), "url must be one of http:// or https://; .*label"),
    (RECIPE, url("http://host/a b"), "spaces, must be written as %20"),
    (RECIPE, url("http://höst/x"), "what is not ASCII"),
    ("recipe download recipe.yaml --work .", recipe(files__gone={"copy": "nowhere"}), "nowhere does not exist"),
    ("recipe download recipe.yaml --work .", recipe(files__gone={"copy": "."}), "is a directory"),
    (
        "recipe download recipe.yaml --work .",
        all_of(fifo("pipe"), recipe(files__gone={"copy": "pipe"})),
        "pipe is a FIFO",
    ),
    (RECIPE, nothing, "preprocess needs 2 files that are not in .*: source, target"),
    (
        "recipe preprocess recipe.yaml --work .",
        all_of(content("source", "a\n"), content("target", "a\nb\n"), flipped("model.pt", "data/0")),
        "model.pt is damaged",
    ),
    ("recipe generate recipe.yaml --work .", all_of(content("source", "a\n"), content("target", "a\n")), "Run first"),
]

SCORES: List[Row] = [
    ("score", nothing, "required: FILE"),
    ("score nowhere.txt", nothing, "FILE must be a file that can be read; nowhere.txt"),
    ("score hf", nothing, "FILE must be a file that can be read; hf"),
    ("score pipe", fifo("pipe"), "pipe is a FIFO"),
    ("score /dev/zero", nothing, "/dev/zero is a device"),
    ("score output.txt --ref pipe", fifo("pipe"), "pipe is a FIFO"),
    ("score text", content("text", ""), "text is empty"),
    ("score text", content("text", b"a\n\xff\n"), "FILE must be text in UTF-8; text has byte 2"),
    ("score text", nothing, "--ref FILE is needed"),
    ("score output.txt --ref text", content("text", "a\nb\nc\n"), "as many references as hypotheses"),
    ("score output.txt --ref nowhere", nothing, "--ref must be a file that can be read; nowhere"),
    ("score output.txt --metrics bleu,", nothing, "--metrics: must name metrics out of bleu, chrf, rouge; got ''"),
    ("score output.txt --tokenize nonsense", nothing, "--tokenize: invalid choice"),
    ("score output.txt --sentences nonsense", nothing, "--sentences: invalid choice"),
    ("score output.txt --post-process nonsense", nothing, "--post-process: must be one of fairseq's"),
    ("score output.txt --samples many", nothing, f"--samples: {WHOLE} 0 to 100,000; got 'many'"),
    ("score output.txt --confidence --samples 1000000000", nothing, f"--samples: {WHOLE} 0 to 100,000"),
    (f"score output.txt --seed {DIGITS}", nothing, f"--seed: {WHOLE} 0 to 2,147,483,647"),
    ("score output.txt --seed -1", nothing, f"--seed: {WHOLE} 0 on"),
    ("score output.txt --extract hyp out", nothing, "--extract must be followed by hypo, ref or src; got 'hyp'"),
    ("score output.txt --extract hypo", nothing, "--extract: expected 2 arguments"),
    ("score output.txt --extract hypo hf", nothing, "hf"),
    ("score output.txt --extract hypo text", nothing, "text"),
    ("score output.txt --extract hypo nowhere/out", nothing, "nowhere"),
    ("score output.txt", content("output.txt", "H-0\t-0.1\tw1\nD-0\n"), "."),
]

ENCODE = "encode pieces < text"
_PIECES = {
    "added": [{"token": "<hl>", "symbol": "<hl>"}],
    "kind": "gpt2",
    "encoder": "encoder.json",
    "vocab": "vocab.bpe",
    "prefix_space": False,
    "others": {},
}


def pieces(*changes: Change, **changed: Any) -> Change:
    """A tokenizer of English letters."""

    def make(directory: Path) -> None:
        letters = {chr(code): code for code in range(33, 127)}
        (directory / "pieces").mkdir()
        (directory / "pieces" / "pieces.json").write_text(json.dumps({**_PIECES, **changed}))
        (directory / "pieces" / "encoder.json").write_text(json.dumps({**letters, "Ġ": 200}))
        (directory / "pieces" / "vocab.bpe").write_text("#version: 0.2\ni n\n")

    return all_of(make, *changes)


def added_token(**changed: Any) -> Change:
    return pieces(added=[{"token": "<hl>", "symbol": "<hl>", **changed}])


_DESCRIPTION = "pieces/pieces.json"
TOKENIZATION: List[Row] = [
    ("encode < text", nothing, "required: DIR"),
    ("encode nowhere < text", nothing, "DIR must be a directory that .* wrote; nowhere/pieces.json does not exist"),
    ("encode text < text", nothing, "text/pieces.json can't be opened: Not a directory"),
    (f"encode {'x' * 300} < text", nothing, "can't be opened: File name too long"),
    (ENCODE, pieces(fifo(_DESCRIPTION)), "pieces.json is a FIFO"),
    (ENCODE, pieces(folder(_DESCRIPTION)), "pieces.json is a directory"),
    (ENCODE, pieces(link(_DESCRIPTION, "/dev/zero")), "pieces.json is a device"),
    (ENCODE, pieces(content(_DESCRIPTION, "")), "pieces.json must be a JSON file"),
    (ENCODE, pieces(content(_DESCRIPTION, DEEP)), "pieces.json must be a JSON file"),
    (ENCODE, pieces(content(_DESCRIPTION, b"\xff{}")), "in UTF-8; byte 0 .* is not"),
    (ENCODE, pieces(content(_DESCRIPTION, "[]")), "must hold a JSON object; it holds a list"),
    (ENCODE, pieces(content(_DESCRIPTION, "{}")), "added must be a list; it is None"),
    (ENCODE, pieces(kind="nonsense"), "kind must be gpt2, sentencepiece or tokenizers; it is 'nonsense'"),
    (ENCODE, pieces(kind=["gpt2"]), "kind must be a str"),
    (ENCODE, pieces(kind="x" * 5000), r"\([\d,]+ characters\)"),
    (ENCODE, pieces(encoder="../text"), "encoder must be the name of a file beside it; it is '../text'"),
    (ENCODE, pieces(encoder="/dev/zero"), "encoder must be the name of a file beside it"),
    (ENCODE, pieces(encoder=""), "encoder in .* must name a file beside it; pieces is a directory"),
    (ENCODE, pieces(encoder=7), "encoder must be a str; it is 7"),
    (ENCODE, pieces(vocab="nowhere"), "vocab in .* must name a file beside it; pieces/nowhere does not exist"),
    (ENCODE, pieces(fifo("pieces/vocab.bpe")), "vocab.bpe is a FIFO"),
    (ENCODE, pieces(prefix_space="no"), "prefix_space must be a bool; it is 'no'"),
    (ENCODE, pieces(others={"x": 7}), "others must have a text for every text"),
    (ENCODE, pieces(others=[]), "others must be a dict"),
    (ENCODE, pieces(content("pieces/encoder.json", "nonsense")), "must describe a tokenizer"),
    (ENCODE, pieces(content("pieces/encoder.json", DEEP)), "must describe a tokenizer"),
    (ENCODE, pieces(content("pieces/encoder.json", "[]")), "must describe a tokenizer"),
    (ENCODE, pieces(content("pieces/encoder.json", '{"a": "b c"}')), "ids of tokens must be whole numbers"),
    (ENCODE, pieces(content("pieces/encoder.json", '{"a": []}')), "must describe a tokenizer"),
    (ENCODE, pieces(content("pieces/encoder.json", '{"a": ' + MANY_DIGITS + "}")), "."),
    (ENCODE, pieces(content("pieces/vocab.bpe", b"\xff")), "must describe a tokenizer"),
    (ENCODE, pieces(content("text", "ü\n")), "encoder.json must have an id for every piece of a text; it has none for"),
    (ENCODE, pieces(content("text", "a\nin\n")), "encoder.json must have .*; it has none for 'in'"),
    (
        ENCODE,
        pieces(kind="sentencepiece", model="vocab.bpe", marian=False, clean_up=False),
        "must describe a tokenizer",
    ),
    (
        ENCODE,
        pieces(kind="tokenizers", file="vocab.bpe", renamed={}, clean_up=False),
        "(must describe|needs the package)",
    ),
    (ENCODE, added_token(symbol="a b"), "symbol of an added token must have no white space in it; it is 'a b'"),
    (ENCODE, added_token(symbol=""), "token and symbol of an added token must be texts"),
    (ENCODE, added_token(token=None), "token and symbol of an added token must be texts"),
    (ENCODE, added_token(lstrip="no"), "flags of an added token must be true or false"),
    (ENCODE, added_token(nonsense=1), "an added token must have token, symbol and no others"),
    (ENCODE, pieces(added=[7]), "an added token must have token, symbol"),
    (ENCODE, pieces(content("text", "")), "the text must have lines; standard input is empty"),
    (
        ENCODE,
        pieces(content("text", b"in\n\xff\n")),
        "the text must be text in UTF-8; standard input has byte 3, in line 2",
    ),
    (ENCODE, pieces(content("text", "in\n".encode("utf-16"))), "must be text in UTF-8; standard input is in UTF-16"),
    (
        RECIPE,
        all_of(
            pieces(prefix_space=7),
            recipe(
                bpe={"name": "el_pieces", "description": _DESCRIPTION}, **{f"files__{_DESCRIPTION}": {"where": "x"}}
            ),
            content("source", "a\n"),
            content("target", "a\n"),
        ),
        "prefix_space must be a bool; it is 7",
    ),
]

TABLES = {
    "options": OPTIONS,
    "checkpoints": CHECKPOINTS,
    "sizes": SIZES,
    "hugging-face": HUGGING_FACE,
    "recipes": RECIPES,
    "scores": SCORES,
    "tokenization": TOKENIZATION,
}
