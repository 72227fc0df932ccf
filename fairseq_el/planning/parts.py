"""How decoding cuts a large batch, so that what it computes in between takes little memory, and what it packs."""

# Positions of the source that are projected together where keys and values are kept: what is in flight stays small, and
# on a CPU in its cache.
PROJECTED_AT_ONCE = 2048
MANY_ROWS = 1024  # of a product, such as the encoder's: those of a step are mostly fewer


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
    """Whether packing weights pays on a CPU that can, by what scripts/bench_packing.py measures (docs/benchmarks.md).

    For 4 to 256 rows a packed weight is 1.1 to 1.7 times as fast, and has paid for its packing after some 30 uses. With
    thousands of rows, the encoder's, the product is no faster; in 16 bits they are packed all the same, to join
    projections and to apply activations before rounding, whose gain was not measured by itself.

    Args:
        dtype: a name in ``DTYPES``.
        num_rows: rows of a product.
        num_uses: products with one weight.
    """
    if num_rows >= MANY_ROWS:
        return dtype != "fp32" and num_uses >= 4
    return num_rows >= 4 and num_uses >= 32
