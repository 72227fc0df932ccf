"""The native step: the compiled extension ``fairseq_el._native``, where it was compiled for this torch."""

from fairseq_el.native.loading import extension

__all__ = ["extension"]
