"""The tokenizer of a converted model: ``pieces.json``, which describes it, and ``--bpe el_pieces``."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from fairseq_el.errors import FairseqElError, OptionError, summary_of
from fairseq_el.files import read_json, require_file
from fairseq_el.tokenization.added_tokens import AddedToken, AddedTokens
from fairseq_el.tokenization.codecs import Codec, Gpt2Codec, SentencepieceCodec, TokenizersCodec

DESCRIPTION = "pieces.json"
_FILES = ("encoder", "vocab", "model", "file")


def read_codec(path: Path) -> Codec:
    """Opens the tokenizer that a file describes (``convert from-hf`` writes ``pieces.json``); its files lie beside it.

    Raises:
        FairseqElError: the description is not valid, or a file that it names is missing or can't be read.
    """
    described = _Described(path)
    try:
        return _open(described)
    except OptionError as error:
        raise FairseqElError(str(error)) from error
    except FairseqElError:
        raise
    except Exception as error:  # sentencepiece, tokenizers and fairseq each raise their own
        raise FairseqElError(
            f"{path} must describe a tokenizer, as fairseq-el convert from-hf writes it, with its files beside it; "
            f"{summary_of(error)}. Convert the model again"
        ) from error


def files_of(path: Path) -> List[Path]:
    """Lists a description and the files beside it that it names.

    Raises:
        FairseqElError: the description is not JSON, or can't be read.
    """
    values = read_json(path)
    names = [values[key] for key in _FILES if isinstance(values.get(key), str)]
    return [path, *(path.parent / name for name in names if Path(name).name == name)]


class _Described:
    """Values of a description. Each is checked when it is read, and raises a ValueError if it is not allowed."""

    def __init__(self, path: Path):
        self._path, self._values = path, read_json(path)

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        value = self._values.get(key, default)
        if not isinstance(value, kind):
            raise ValueError(f"{key} must be a {kind.__name__}; it is {value!r}")
        return value

    def flag(self, key: str, default: Optional[bool] = None) -> bool:
        return bool(self.value(key, bool, default))

    def texts(self, key: str) -> Dict[str, str]:
        texts: Dict[str, str] = self.value(key, dict)
        if not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{key} must have a text for every text; it is {texts!r}")
        return texts

    def file(self, key: str) -> Path:
        """Returns the path of a file that the description names. It must lie beside the description."""
        name = str(self.value(key, str))
        if Path(name).name != name:
            raise ValueError(f"{key} must be the name of a file beside it; it is {name!r}")
        path = self._path.parent / name
        require_file(path, f"{key} in {self._path} must name a file beside it")
        return path


def _open(described: _Described) -> Codec:
    added = AddedTokens(AddedToken.of_json(values) for values in described.value("added", list))
    kind = described.value("kind", str)
    if kind == "gpt2":
        files = (described.file("encoder"), described.file("vocab"))
        return Gpt2Codec(*files, added, described.flag("prefix_space"), described.texts("others"))
    if kind == "sentencepiece":
        marian, clean_up = described.flag("marian"), described.flag("clean_up")
        strip = described.flag("strip", default=False)  # not in what earlier versions wrote
        return SentencepieceCodec(described.file("model"), added, marian, clean_up, strip)
    if kind == "tokenizers":
        return TokenizersCodec(described.file("file"), added, described.texts("renamed"), described.flag("clean_up"))
    raise ValueError(f"kind must be gpt2, sentencepiece or tokenizers; it is {kind!r}")


@dataclass
class PiecesConfig(FairseqDataclass):
    el_pieces: str = field(
        default=DESCRIPTION, metadata={"help": f"{DESCRIPTION} of the directory that fairseq-el convert from-hf wrote"}
    )


@register_bpe("el_pieces", dataclass=PiecesConfig)
class PiecesBPE:
    """BPE of fairseq by a converted model's tokenizer.

    Added tokens such as ``<hl>`` stay whole; special ones are left out of decoded text.
    """

    def __init__(self, cfg: PiecesConfig):
        self._codec = read_codec(Path(cfg.el_pieces))

    def encode(self, x: str) -> str:
        return " ".join(self._codec.encode(x))

    def decode(self, x: str) -> str:
        return self._codec.decode(x.split())

    def is_beginning_of_word(self, x: str) -> bool:
        return self.decode(x).startswith(" ") or x.startswith("\u2581")
