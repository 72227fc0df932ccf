"""Raw text through both programs: what ``to-hf`` wrote gives the text of the fairseq model that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf_models
import pytest
import torch
from fairseq.data import Dictionary
from test_convert_hf_text import TEXTS, generated, pieces, sentences  # noqa: F401  (a fixture)
from tiny import build_model, settings

from fairseq_el.conversion import Checkpoint, save_checkpoint, strip
from fairseq_el.conversion.hf.languages import M2M_LANGUAGES
from fairseq_el.conversion.hf.tokenizer_files import encoder_of, merges_text

transformers = hf_models.transformers
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("bart_base", {"share_all_embeddings": True}),
    "post-norm": ("transformer", {"share_all_embeddings": True}),
    "pre-norm": (
        "transformer",
        {"share_all_embeddings": True, "encoder_normalize_before": True, "decoder_normalize_before": True},
    ),
}


def save(directory: Path, name: str, words: Dictionary) -> None:
    """A random model's checkpoint, whose outputs end."""
    arch, options = ARCHITECTURES[name]
    directory.mkdir(exist_ok=True)
    words.save(str(directory / "dict.txt"))
    for language in ("de", "en"):
        words.save(str(directory / f"dict.{language}.txt"))
    model = build_model(arch, words, 3, torch.float32, **options)
    let_outputs_end(model, words, {"bart": 3.0, "post-norm": 10.0}.get(name, 7.0))
    args = settings(arch, **options, source_lang="de", target_lang="en")
    args.task = "translation"
    checkpoint = Checkpoint({"args": args, "model": model.state_dict()}, "model.pt")
    save_checkpoint(strip(checkpoint, None), directory / "model.pt")


def let_outputs_end(model: Any, words: Dictionary, boost: float) -> None:
    """Gives the eos a larger logit: the longest outputs are not ranked alike in both programs."""
    norm = getattr(model.decoder, "layer_norm", None) or model.decoder.layers[-1].final_layer_norm
    with torch.no_grad():
        norm.bias.normal_(std=0.5)
        embedding = model.decoder.embed_tokens.weight
        embedding[words.eos()] += boost * norm.bias / norm.bias.square().sum()
        embedding[words.unk()] -= boost * norm.bias / norm.bias.square().sum()  # it is text in fairseq alone


def byte_bpe(directory: Path) -> Dictionary:
    words = Dictionary()
    encoder = encoder_of(hf_models.MERGES)
    for token, index in encoder.items():
        if len(token) > 1 or token.isascii() or token == "Ġ":
            words.add_symbol(str(index))
    directory.mkdir(exist_ok=True)
    (directory / "vocab.bpe").write_text(merges_text(hf_models.MERGES), encoding="utf-8")
    hf_models.write_json(directory / "encoder.json", encoder)
    return words


def spm(directory: Path, model: Path) -> Dictionary:
    import sentencepiece

    words = Dictionary()
    loaded = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for index in range(len(loaded) - 1, 2, -1):  # an order of its own
        words.add_symbol(loaded.id_to_piece(index))
    directory.mkdir(exist_ok=True)
    (directory / "spm.model").write_bytes(model.read_bytes())
    return words


INTERACTIVE = "fairseq-interactive model --path model/model.pt -s de -t en --user-dir fairseq_el --task translation"
GPT2 = " --bpe gpt2 --gpt2-encoder-json model/encoder.json --gpt2-vocab-bpe model/vocab.bpe"
SPM = " --bpe sentencepiece --sentencepiece-model model/spm.model"


@pytest.mark.parametrize(
    ("name", "bpe"), [("bart", GPT2), ("bart", SPM), ("post-norm", SPM), ("pre-norm", SPM)],
    ids=["bart-gpt2", "bart-spm", "post-norm", "pre-norm"],
)  # fmt: skip
def test_text_of_stock_fairseq(name, bpe, pieces, tmp_path, monkeypatch, execute):  # noqa: F811
    """With fairseq-interactive's own defaults, and with the options of a generate.args; outputs that end."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "model"
    words = byte_bpe(directory) if bpe == GPT2 else spm(directory, pieces / "spm.model")
    save(directory, name, words)
    Path("test.txt").write_text("".join(f"{line}\n" for line in TEXTS), encoding="utf-8")
    for options in ("", "--beam 3\n--lenpen 1.6\n--min-len 4\n--max-len-b 50\n"):
        (directory / "generate.args").write_text(options)
        if not options:
            (directory / "generate.args").unlink()
        mine = sentences(execute(f"{INTERACTIVE}{bpe} {' '.join(options.split())} < test.txt"))
        printed = execute("fairseq-el convert to-hf model --out hf --verify --force")
        assert "note: " in printed
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained("hf").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained("hf")
        theirs = generated(model, tokenizer, TEXTS)
        assert theirs == mine and len(set(mine)) > 1


TASK, LANGUAGES = "translation_multi_simple_epoch", M2M_LANGUAGES["wmt21"]


def save_m2m(directory: Path, model: Path, order: tuple[str, ...]) -> None:
    """A random model of fairseq's own M2M-100, with its sentencepiece model and one dictionary."""
    words = spm(directory, model)
    for language in order:
        words.add_symbol(f"__{language}__")
    words.add_symbol("madeupword0000")
    for name in ("dict.txt", "dict.en.txt", "dict.de.txt"):
        words.save(str(directory / name))
    _, options = ARCHITECTURES["pre-norm"]
    built = build_model("transformer", words, 3, torch.float32, **options)
    let_outputs_end(built, words, 6.0)
    args = settings("transformer", **options, langs=list(order), encoder_langtok="src", decoder_langtok=True)
    args.task, args.source_lang, args.target_lang = "translation_multi_simple_epoch", "en", "de"
    save_checkpoint(strip(Checkpoint({"args": args, "model": built.state_dict()}, "m"), None), directory / "model.pt")


def test_text_of_fairseqs_own_m2m(pieces, tmp_path, monkeypatch, execute):  # noqa: F811
    """With lenpen 0, where it makes no difference that fairseq's scores count the forced language."""
    monkeypatch.chdir(tmp_path)
    save_m2m(tmp_path / "model", pieces / "bpe.model", LANGUAGES)
    Path("test.txt").write_text("".join(f"{line}\n" for line in TEXTS), encoding="utf-8")
    options = "--beam 3\n--lenpen 0\n--min-len 3\n--max-len-b 50\n"
    Path("model/generate.args").write_text(options)
    languages = f"--langs {','.join(LANGUAGES)} --lang-pairs en-de --encoder-langtok src --decoder-langtok"
    command = INTERACTIVE.replace("-s de -t en", "-s en -t de").replace("--task translation", f"--task {TASK}")
    mine = sentences(execute(f"{command} {languages}{SPM} {' '.join(options.split())} < test.txt"))
    printed = execute("fairseq-el convert to-hf model --out hf --verify")
    assert "hf: M2M-100" in printed
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained("hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("hf", src_lang="en")
    assert type(tokenizer).__name__ == "M2M100Tokenizer"
    theirs = generated(model, tokenizer, TEXTS)
    assert theirs == mine and len(set(mine)) > 1


def test_languages_that_the_tokenizer_has_not(pieces, tmp_path, monkeypatch, execute):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    save_m2m(tmp_path / "model", pieces / "bpe.model", LANGUAGES[::-1])
    printed = execute("fairseq-el convert to-hf model --out hf --verify")
    assert (
        "no tokenizer was written: M2M100Tokenizer has languages of its own, the 100 of m2m100 or the 8 of" in printed
    )
    assert not Path("hf/vocab.json").exists()
    printed = execute("fairseq-el convert from-hf hf --out again --verify")
    assert "again: M2M-100" in printed
    one, other = (torch.load(f"{name}/model.pt")["model"] for name in ("model", "again"))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
