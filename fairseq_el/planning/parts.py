"""How decoding cuts a large batch, so that what it computes in between takes little memory."""


def sentences_at_once(encoder_tokens: int, length: int) -> int:
    """Sentences of ``length`` positions that are read together: at most ``encoder_tokens`` positions, at least one."""
    return max(encoder_tokens // max(length, 1), 1)


def output_rows_at_once(encoder_tokens: int, width: int, vocab_size: int) -> int:
    """Rows of the output projection that are computed together, as large as ``encoder_tokens`` times ``4 d`` numbers.

    Args:
        width: ``d`` of the decoder.
    """
    return max(encoder_tokens * 4 * width // vocab_size, 1)
