"""How decoding cuts a large batch, so that what it computes in between takes little memory, and what it packs."""

PROJECTED_AT_ONCE = 2048  # positions of the source that are projected together where keys and values are kept


def sentences_at_once(encoder_tokens: int, length: int) -> int:
    """Sentences of ``length`` positions that are read together: at most ``encoder_tokens`` positions, at least one."""
    return max(encoder_tokens // max(length, 1), 1)


def output_rows_at_once(encoder_tokens: int, width: int, vocab_size: int) -> int:
    """Rows of the output projection that are computed together, as large as ``encoder_tokens`` times ``4 d`` numbers.

    Args:
        width: ``d`` of the decoder.
    """
    return max(encoder_tokens * 4 * width // vocab_size, 1)


def packs_weights(dtype: str, num_rows: int, num_uses: int) -> bool:
    """Whether decoding keeps weights packed on a CPU that can: ``fairseq_el.modules.worth_packing`` for the plan.

    Args:
        dtype: a name in ``DTYPES``.
        num_rows: rows of a product.
        num_uses: products with one weight.
    """
    if num_uses < (4 if num_rows >= 1024 else 16):
        return False
    return num_rows < 1024 if dtype == "fp32" else num_rows >= 32
