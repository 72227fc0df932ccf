"""Models from and to Hugging Face's ``transformers``. Only ``--verify`` needs ``transformers`` itself.

Both directions have the same stations: read one side into a :class:`Model`, check it, write the other side.
"""

from fairseq_el.conversion.hf.fairseq_checkpoint import read_fairseq
from fairseq_el.conversion.hf.families import FAMILIES, Family
from fairseq_el.conversion.hf.from_hf import from_hf, read_hf, write_fairseq
from fairseq_el.conversion.hf.loaded_bart import bart_to_hf
from fairseq_el.conversion.hf.logits import compare_logits
from fairseq_el.conversion.hf.model import ConversionSummary, Model
from fairseq_el.conversion.hf.to_hf import to_hf, write_hf

__all__ = [
    "FAMILIES",
    "ConversionSummary",
    "Family",
    "Model",
    "bart_to_hf",
    "compare_logits",
    "from_hf",
    "read_fairseq",
    "read_hf",
    "to_hf",
    "write_fairseq",
    "write_hf",
]
