"""The modules on device cuda in half precision: nothing mixes devices, nothing makes the host wait inside a step.

Needs no card: fake tensors of a CUDA build of torch raise at both. Skipped on a CPU build, and before torch 2.14, the
oldest that was tried and does not abort the process without a card (2.6 does).
"""

from __future__ import annotations

import pytest
import torch
from fairseq.modules import MultiheadAttention

from fairseq_el.modules import ELMultiheadAttention, SharedEncoderOut, share_encoder_out

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
pytestmark = pytest.mark.skipif(
    torch.version.cuda is None or TORCH < (2, 14), reason="needs a CUDA build of torch 2.14 or later (but no card)"
)

NUM_SENTENCES, NUM_BEAMS, SRC_LEN, WIDTH = 3, 4, 7, 32


@pytest.fixture
def fake_cuda():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        yield torch.device("cuda")


def shared_encoder_out(device):
    memory = torch.randn(NUM_SENTENCES, SRC_LEN, WIDTH, device=device, dtype=torch.float16)
    padding_mask = torch.zeros(NUM_SENTENCES, SRC_LEN, dtype=torch.bool, device=device)
    return SharedEncoderOut(memory, padding_mask, NUM_BEAMS)


def test_a_step_of_attention_and_a_compaction(fake_cuda):
    attention = MultiheadAttention(WIDTH, 4, kdim=WIDTH, vdim=WIDTH, encoder_decoder_attention=True)
    attention.__class__ = ELMultiheadAttention
    for name, parameter in list(attention.named_parameters()):
        module, _, attribute = name.rpartition(".")
        on_device = torch.nn.Parameter(torch.empty(parameter.shape, device=fake_cuda, dtype=torch.float16))
        setattr(attention.get_submodule(module), attribute, on_device)
    attention.eval()

    shared = shared_encoder_out(fake_cuda)
    query = torch.randn(1, NUM_SENTENCES * NUM_BEAMS, WIDTH, device=fake_cuda, dtype=torch.float16)
    memory, mask = shared["encoder_out"][0], shared["encoder_padding_mask"][0]
    output, weights = attention(query, memory, memory, mask, {}, static_kv=True, need_head_weights=True)
    assert output.shape == query.shape and output.dtype == torch.float16 and output.device.type == "cuda"
    assert weights.shape == (4, NUM_SENTENCES * NUM_BEAMS, 1, SRC_LEN) and weights.device.type == "cuda"

    compacted = share_encoder_out(shared, torch.arange(2 * NUM_BEAMS, device=fake_cuda))
    assert compacted["encoder_out"][0].shape == (SRC_LEN, 2, WIDTH)
    assert compacted["encoder_out"][0].device.type == "cuda"


def test_fake_tensors_would_notice(fake_cuda):
    """The check of this file's own instrument: waiting for the device and mixing devices do raise."""
    shared = shared_encoder_out(fake_cuda)
    with pytest.raises(Exception, match="_local_scalar_dense"):
        bool(shared["encoder_padding_mask"][0].any())
    with pytest.raises(Exception, match="device"):
        shared["encoder_out"][0] + torch.ones(SRC_LEN, NUM_SENTENCES, WIDTH)
