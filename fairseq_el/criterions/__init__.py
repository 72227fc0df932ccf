"""Registered criterions."""

from fairseq_el.criterions.slim_cross_entropy import SlimCrossEntropyCriterion

__all__ = ["SlimCrossEntropyCriterion"]
