"""Native code for CPUs: the extension, and models as it reads them."""

from fairseq_el.native.loading import extension
from fairseq_el.native.model import can_encode, native_model, reason_against

__all__ = ["can_encode", "extension", "native_model", "reason_against"]
