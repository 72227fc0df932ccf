"""Decoding and computing logits with both programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import torch
from fairseq.data import LanguagePairDataset
from fairseq.sequence_generator import SequenceGenerator
from torch.nn import functional

from fairseq_el import disable_el_attention, enable_el_attention
from fairseq_el.conversion import build, load_checkpoint
from fairseq_el.conversion.hf import Model, read_hf
from fairseq_el.conversion.hf.families import Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.logits import load_hf
from fairseq_el.conversion.hf.tokenizer_files import MODEL, OPTIONS
from fairseq_el.conversion.hf.vocabulary import EOS, PAD
from fairseq_el.generation import ELSequenceGenerator

LENGTHS = [7, 4, 9, 5, 8, 6]


class Pair:
    """A model of Hugging Face's, and what it was converted to."""

    def __init__(self, hf: Path, out: Path, dtype: torch.dtype = torch.float32):
        self.converted: Model = read_hf(HFDirectory(hf))
        self.out = out
        self.words = self.converted.vocabulary.dictionary()
        self.model = build(load_checkpoint(str(out / MODEL), "CKPT"), self.words).to(dtype)
        self.hf = load_hf(hf, self.family).to(dtype)
        self.ids = torch.tensor([-1 if row is None else row for row in self.converted.vocabulary.ids])
        if dtype == torch.float64:
            _no_rounding(self.model)

    @property
    def family(self) -> Family:
        return self.converted.family

    def sources(self, seed: int = 1) -> list[torch.Tensor]:
        """Random sentences of fairseq's, an eos at the end of each; GPT-2's prompts have one at their beginning."""
        generator = torch.Generator().manual_seed(seed)
        words = self.ids.ge(0).nonzero().squeeze(1)
        words = words[words.gt(3)]
        found = []
        for length in LENGTHS:
            drawn = words[torch.randint(len(words), (length - 1,), generator=generator)]
            eos = torch.tensor([EOS])
            found.append(torch.cat([eos, drawn] if self.family.decoder_only else [drawn, eos]))
        return found

    def hf_hypotheses(self, sources: list[torch.Tensor], **options: Any) -> list[list[int]]:
        """In fairseq's indices, without first symbols and prompts, up to and with the eos."""
        back = {row: index for index, row in enumerate(self.ids.tolist()) if row >= 0}
        found = []
        for source in sources:  # one by one, so that nothing is padded
            rows = self.ids[source].unsqueeze(0)
            with torch.no_grad():
                (sequence,) = self.hf.generate(rows, attention_mask=torch.ones_like(rows), **options)
            words = [back[row] for row in sequence.tolist()]
            words = words[source.numel() if self.family.decoder_only else 1 :]
            found.append(words[: words.index(EOS) + 1] if EOS in words else words)
        return found

    def hypotheses(self, sources: list[torch.Tensor], el: bool, prefix: list[int] | None = None) -> list[list[int]]:
        """With the options that were carried over, by stock's generator and attention or by those of this package."""
        (enable_el_attention if el else disable_el_attention)(self.model)
        generator = (ELSequenceGenerator if el else SequenceGenerator)([self.model], self.words, **self.options())
        if self.family.decoder_only:
            return [self._continued(generator, source) for source in sources]
        batch = LanguagePairDataset(sources, [len(source) for source in sources], self.words, shuffle=False)
        sample = batch.collater([batch[i] for i in range(len(sources))])
        forced = torch.tensor([prefix] * len(sources)) if prefix else None
        found = generator.generate([self.model], sample, prefix_tokens=forced)
        by_id = dict(zip(sample["id"].tolist(), found))
        return [by_id[i][0]["tokens"].tolist() for i in range(len(sources))]

    def _continued(self, generator: Any, source: torch.Tensor) -> list[int]:
        prompt = source.unsqueeze(0)
        sample = {
            "id": torch.tensor([0]),
            "net_input": {"src_tokens": prompt, "src_lengths": torch.tensor([len(source)])},
        }
        (found,) = generator.generate([self.model], sample, prefix_tokens=prompt[:, 1:], bos_token=EOS)
        return found[0]["tokens"].tolist()[source.numel() - 1 :]

    def options(self) -> dict[str, Any]:
        words = shlex.split((self.out / OPTIONS).read_text())
        given = {word: value for word, value in zip(words, words[1:]) if word.startswith("--")}
        return {
            "beam_size": int(given["--beam"]),
            "max_len_a": float(given["--max-len-a"]),
            "max_len_b": int(given["--max-len-b"]),
            "min_len": int(given["--min-len"]),
            "len_penalty": float(given["--lenpen"]),
            "no_repeat_ngram_size": int(given["--no-repeat-ngram-size"]),
        }

    def logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a padded batch, at all words: fairseq's, and Hugging Face's in the same order. *Shape:* ``(words, V)``."""
        disable_el_attention(self.model)
        previous = [torch.cat([torch.tensor([EOS]), words[:-1]]) for words in self.sources(2)]
        if self.family.decoder_only:
            previous = self.sources(2)
        sources = self.sources(1)
        present = self.ids.ge(0).nonzero().squeeze(1)
        mine, theirs = [], []
        with torch.no_grad():
            for source, words in zip(sources, previous):
                mine.append(self._mine(source, words)[:, present])
                theirs.append(self._theirs(source, words)[:, self.ids[present]])
        return torch.cat(mine), torch.cat(theirs)

    def _mine(self, source: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        if self.family.decoder_only:
            return self.model(words.unsqueeze(0))[0][0]
        padded = functional.pad(source, (2, 0), value=PAD).unsqueeze(0)  # as fairseq's tasks pad
        return self.model(padded, torch.tensor([len(source)]), words.unsqueeze(0))[0][0]

    def _theirs(self, source: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        rows = self.ids[words].clone()
        rows[0] = self.ids[self.converted.vocabulary.start]
        if self.family.decoder_only:
            return self.hf(input_ids=rows.unsqueeze(0)).logits[0]
        padded = functional.pad(self.ids[source], (0, 3), value=int(self.ids[PAD])).unsqueeze(0)
        mask = torch.ones_like(padded)
        mask[:, -3:] = 0
        return self.hf(input_ids=padded, attention_mask=mask, decoder_input_ids=rows.unsqueeze(0)).logits[0]


def _no_rounding(model: Any) -> None:
    """fairseq's gelu goes through float32, whatever it is given."""
    for side in ("encoder", "decoder"):
        for layer in getattr(getattr(model, side, None), "layers", ()):
            if getattr(layer.activation_fn, "__name__", "") == "gelu":
                layer.activation_fn = functional.gelu
