"""Batches that fail: those that do not fit into memory, and those with a sentence that has no hypothesis.

- :mod:`halves` decodes a batch that ran out of memory in smaller ones, and puts torch's random numbers back before;
- :mod:`out_of_memory` recognises such failures and says what to try;
- :mod:`no_hypothesis` finds out why a sentence has no hypothesis.
"""
