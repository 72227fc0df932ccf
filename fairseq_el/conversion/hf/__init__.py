"""Models of Hugging Face's ``transformers``, in and out. Only ``--verify`` needs ``transformers`` itself."""

from fairseq_el.conversion.hf.families import FAMILIES, Family
from fairseq_el.conversion.hf.from_hf import from_hf
from fairseq_el.conversion.hf.loaded_bart import bart_to_hf
from fairseq_el.conversion.hf.report import Report
from fairseq_el.conversion.hf.to_hf import to_hf
from fairseq_el.conversion.hf.verify import compare_logits

__all__ = ["FAMILIES", "Family", "Report", "bart_to_hf", "compare_logits", "from_hf", "to_hf"]
