"""Native code for CPUs: the extension, and models as it reads them."""

from fairseq_el.native.loading import extension
from fairseq_el.native.model import DTYPES, can_encode, native_model, reason_against

__all__ = ["DTYPES", "can_encode", "extension", "native_model", "reason_against"]
