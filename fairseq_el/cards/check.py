"""Checks before decoding: that torch has kernels for the card, and that no card of the machine is left idle."""

from __future__ import annotations

import functools
import logging
import os
import platform
import re
import sys
from typing import Any, Dict, Optional

import torch
from torch import Tensor

from fairseq_el.cards.nvidia_smi import Capability, Card, dotted, has_nvidia_smi, shown_cards
from fairseq_el.cards.torch_builds import OLDEST_DRIVERS, choose, has_kernels, is_too_old, oldest_driver
from fairseq_el.errors import NoKernelsError

logger = logging.getLogger(__name__)

_NO_KERNEL = "no kernel image is available"


def check_device(device: torch.device) -> None:
    """Checks a device before it decodes; from the second time on, this costs nothing.

    On a CPU it warns once if the machine has a card, and says why torch does not use it.

    Raises:
        NoKernelsError: this torch has no kernels for the card.
    """
    if device.type == "cuda":
        _check_card(device.index)
    elif device.type == "cpu":
        warn_of_idle_card()


def check_input(net_input: Dict[str, Any]) -> None:
    """Runs :func:`check_device` for the device of the tensors that a model is about to read."""
    tensor = next((value for value in net_input.values() if isinstance(value, Tensor)), None)
    if tensor is not None:
        check_device(tensor.device)


def check_card_of(model: Any) -> None:
    """Runs :func:`check_device` for a model that is on a card already; others may be moved before they decode."""
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type == "cuda":
        check_device(parameter.device)


def usable_device() -> str:
    """The device that fairseq's programs use: ``"cuda"`` if torch sees a card, else ``"cpu"``; checked as above."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(torch.device(device))
    return device


@functools.lru_cache(maxsize=None)
def _check_card(index: Optional[int]) -> None:
    if torch.version.cuda is None or not torch.cuda.is_available():  # an AMD card; a test's fake tensor
        return
    kernels = torch.cuda.get_arch_list()
    if kernels and not has_kernels(torch.cuda.get_device_capability(index), kernels):
        raise NoKernelsError(_no_kernels(index))


def _no_kernels(index: Optional[int]) -> str:
    capability = torch.cuda.get_device_capability(index)
    return (
        f"torch {torch.__version__} has no kernels for this card, {torch.cuda.get_device_name(index)} of compute "
        f"capability {dotted(capability)}: it was built for {', '.join(torch.cuda.get_arch_list())}. "
        f"With --cpu it is not used. {_what_to_do(_card_of(capability))}"
    )


def explain_missing_kernel(error: BaseException) -> Optional[str]:
    """Explains the error ``no kernel image is available for execution on the device``; None for other errors."""
    if not isinstance(error, RuntimeError) or _NO_KERNEL not in str(error) or not torch.cuda.is_available():
        return None
    capability, kernels = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if not has_kernels(capability, kernels):
        return _no_kernels(None)
    return (
        f"A CUDA kernel was called that was not built for this card, {torch.cuda.get_device_name()} of compute "
        f"capability {dotted(capability)}. torch {torch.__version__} itself has kernels for it, so this one belongs to "
        "an extension: fairseq's own, apex or xformers. Build that again on this machine, or uninstall it."
    )


@functools.lru_cache(maxsize=None)
def warn_of_idle_card() -> None:
    """Warns once if nvidia-smi shows a card that torch does not see, unless the user asked for the CPU."""
    why = why_no_card()
    if why:
        logger.warning("%s", why)


def why_no_card() -> str:
    """The reason why torch sees no card although nvidia-smi shows one; empty if there is nothing to explain."""
    if _wants_no_card() or not has_nvidia_smi() or torch.cuda.is_available():
        return ""
    shown = shown_cards().cards
    if not shown:
        return ""
    card = shown[0]
    return f"Decoding goes on on the CPU, although nvidia-smi shows a card ({card}): {_why_not(card)}"


def _wants_no_card() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and (not hidden.strip() or hidden.strip().startswith(("-", "NoDevFiles"))):
        return True
    return any(re.fullmatch(r"--cpu|common\.cpu=(?i:true|1)", argument) for argument in sys.argv[1:])


def _why_not(card: Card) -> str:
    cuda = torch.version.cuda
    if cuda is None:
        return f"torch {torch.__version__} is a build without CUDA. {_what_to_do(card)}"
    if is_too_old(card.driver, cuda):
        return f"torch {torch.__version__} was built for CUDA {cuda}, for which the driver is too old. " + _what_to_do(
            card, f"driver {oldest_driver(cuda)} or newer, or "
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which names no card that torch {torch.__version__} can use."
    try:
        torch.cuda.init()
        said = "torch does not say why"
    except Exception as error:  # torch may raise anything here
        said = str(error).partition("\n")[0]
    return f"torch {torch.__version__}, built for CUDA {cuda}, can't use it: {said}"


def _card_of(capability: Capability) -> Card:
    """A card with the driver that nvidia-smi shows, or else with one that is new enough for every known CUDA."""
    drivers = [card.driver for card in shown_cards().cards]
    return Card(capability, drivers[0] if drivers else str(max(OLDEST_DRIVERS.values())))


def _what_to_do(card: Card, instead: str = "") -> str:
    """The command that installs a torch for the card, or the reason why there is none.

    Args:
        instead: an alternative to install, such as ``"driver 580 or newer, or "``.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"Install a torch for it from https://pytorch.org (this machine is {platform.machine()})."
    choice = choose(sys.version_info[:2], [card])
    if choice.problem:
        return f"{choice.problem}."
    again = "--force-reinstall " if choice.requirement == f"torch=={torch.__version__.partition('+')[0]}" else ""
    return f"Install {instead}a torch that serves the card: pip install {again}{choice.requirement}"
