"""The cards of a machine: which torch has kernels for them, and whether the one that is installed does.

Nothing is imported here: ``scripts/choose_torch.py`` imports two of the modules where nothing is installed yet.
"""
