"""NVIDIA's cards: the torch that has kernels for the cards of a machine, and a check that the installed one has.

All modules are public. Nothing is imported here, because ``scripts/choose_torch.py`` imports ``nvidia_smi`` and
``torch_builds`` before torch is installed.
"""
