"""``--bpe el_pieces``: the tokenizer of a model that ``fairseq-el convert from-hf`` wrote."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from pathlib import Path

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from fairseq_el.tokenization.codec_description import DESCRIPTION, read_codec


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
