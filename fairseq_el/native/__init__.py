"""Native code for CPUs: the extension, and models as it reads them."""

from fairseq_el.native.loading import extension
from fairseq_el.native.model import DTYPES, native_model, reason_against

__all__ = ["DTYPES", "extension", "native_model", "reason_against"]
