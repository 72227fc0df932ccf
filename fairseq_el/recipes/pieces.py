"""Text to the pieces that a model knows, and back, by fairseq's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List

from fairseq.data.data_utils import post_process
from fairseq.data.encoders.gpt2_bpe import GPT2BPE, GPT2BPEConfig
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE, SentencepieceConfig

from fairseq_el.errors import FairseqElError, summary_of

_SPECIAL = ("<unk>", "<mask>")  # that GPT2BPE knows how to show


class Pieces:
    """Of GPT-2's BPE, sentencepiece, or text that is in pieces already, split by ``subword_nmt`` (``@@``).

    Attributes:
        knows_all: whether every text can be written in its pieces, as GPT-2's BPE can.
    """

    def __init__(self, bpe: Dict[str, str], work: Path):
        """
        Args:
            bpe: of a recipe.
            work: directory with the files that it names.

        Raises:
            FairseqElError: they can't be read as what they should be.
        """
        self.name = bpe["name"]
        files = {key: str(work / name) for key, name in bpe.items() if key != "name"}
        self.knows_all = self.name == "gpt2"
        try:
            if self.name == "gpt2":
                config = GPT2BPEConfig(gpt2_encoder_json=files["encoder"], gpt2_vocab_bpe=files["vocab"])
                self._bpe = GPT2BPE(config)
            elif self.name == "sentencepiece":
                self._bpe = SentencepieceBPE(SentencepieceConfig(sentencepiece_model=files["model"]))
        except Exception as error:  # json, sentencepiece and fairseq each raise their own
            raise FairseqElError(
                f"the files of BPE {self.name} can't be read ({', '.join(files.values())}): {summary_of(error)}"
            ) from error

    def encode(self, line: str) -> str:
        """A line of text as pieces with a space between them."""
        return line if self.name == "split" else self._bpe.encode(line)

    def decode(self, pieces: List[str]) -> str:
        """Pieces that a model wrote as one line of text; those that stand for no text are left out."""
        if self.name == "split":
            text = post_process(" ".join(pieces), "subword_nmt")
        else:
            if self.name == "gpt2":  # dictionaries are padded with words such as madeupword0000
                pieces = [piece for piece in pieces if piece.isdigit() or piece in _SPECIAL]
            text = self._bpe.decode(" ".join(pieces))
        return text.replace("\r", " ").replace("\n", " ").strip()
