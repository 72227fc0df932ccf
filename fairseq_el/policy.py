"""The policy of decoding: how pools of nodes grow, how batches are cut into parts, and which weights are packed."""

# Positions of the source that are projected together where keys and values are kept: intermediate results stay small,
# and on a CPU in its cache.
PROJECTED_AT_ONCE = 2048
MANY_ROWS = 1024  # from so many rows on, a product is taken for the encoder's; those of a step mostly have fewer
LEAST_PACKED = 4_000_000  # rows x in x out of a product in fp32, from which on packing pays; measured: 3 to 5 million
LONGEST_NATIVE_SOURCE = 256  # positions up to which native code encodes; beyond, torch's attention is the faster one
LEAST_ROWS_OF_GROUP = 8  # rows that a thread decodes by itself, at least
# With --el-cuda-graphs auto, steps on a card are replayed from graphs. They were equal on an H100 (docs/benchmarks.md).
GRAPHS_BY_DEFAULT = True
STEPS_OF_ROOM = 16  # that pools which stay in place have room for, at least, when they get new storage
LEAST_STATIC_ROWS = 64  # a step of fewer rows takes as long as one of these: it reads the weights
LEAST_OUTPUT_ROWS = 512  # of the output projection, computed together by a step that stays in place
LEAST_REPLAYS = 4  # of a graph; making one took as long as launching a step (13 ms), and a replay saved 11 ms


def sentences_at_once(encoder_tokens: int, length: int) -> int:
    """Sentences of ``length`` positions that are read together: at most ``encoder_tokens`` positions, at least one."""
    return max(encoder_tokens // max(length, 1), 1)


def output_rows_at_once(encoder_tokens: int, width: int, vocab_size: int) -> int:
    """Rows of the output projection that are computed together, as large as ``encoder_tokens`` times ``4 d`` numbers.

    Args:
        width: ``d`` of the decoder.
    """
    return max(encoder_tokens * 4 * width // vocab_size, 1)


def groups_of_sentences(num_sentences: int, beam_size: int, num_threads: int) -> int:
    """Groups that native code decodes a batch in, each by one thread; 1 where threads share every product.

    Threads that share products wait for each other after each of them. With few rows, though, a product takes most of
    its time to read the weight, and threads that read it together need not read it twice.
    """
    many = num_sentences >= num_threads and num_sentences * beam_size >= LEAST_ROWS_OF_GROUP * num_threads
    return num_threads if many else 1


def should_pack(dtype: str, num_rows: int, size: int, num_uses: int) -> bool:
    """Returns whether packing a weight pays on a CPU that can, as measured in docs/benchmarks.md.

    Args:
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
        num_rows: rows of a product.
        size: numbers of the weight, in x out.
        num_uses: products with it.
    """
    return is_packed_faster(dtype, num_rows, size) and num_uses >= (4 if num_rows >= MANY_ROWS else 32)


def is_packed_faster(dtype: str, num_rows: int, size: int) -> bool:
    """Returns whether a product with a weight that is packed already takes less time than with the plain one.

    In fp32 a packed product has a fixed cost that only a product of some size earns back. With thousands of rows, the
    encoder's, it is no faster; in 16 bits weights are packed all the same, to join projections and to apply
    activations before rounding, whose gain was not measured by itself.
    """
    if dtype == "fp32":
        return 4 <= num_rows < MANY_ROWS and num_rows * size >= LEAST_PACKED
    return num_rows >= 4


def first_packed_rows(dtype: str, size: int) -> int:
    """Rows from which on a product with a packed weight of ``size`` numbers takes less time than with the plain one."""
    return max(-(-LEAST_PACKED // size), 4) if dtype == "fp32" else 4


def capacity_for(num_nodes: int, beam_size: int) -> int:
    """Room that pools are given when they must hold ``num_nodes`` nodes: an eighth more, and at least four steps."""
    room = num_nodes + max(num_nodes // 8, 4 * beam_size)
    return -(-room // 8) * 8


def static_capacity(num_nodes: int, beam_size: int, steps_left: int) -> int:
    """Room of pools that stay in place: a power of two, but no more than the steps left can use.

    Multiples of 16, so that torch's fused attention on a card need not copy its mask.
    """
    room = num_nodes + max(num_nodes // 4, STEPS_OF_ROOM * beam_size)
    most = num_nodes + beam_size * max(steps_left, 1)
    return min(max(1 << (room - 1).bit_length(), 16), -(-most // 16) * 16)


def static_sentences(num_sentences: int, num_unfinished: int, beam_size: int) -> int:
    """Sentences that a step in place decodes: all of a batch, or a half of them, or a half of these, and so on."""
    while num_sentences * beam_size > LEAST_STATIC_ROWS and num_unfinished <= -(-num_sentences // 2) < num_sentences:
        num_sentences = -(-num_sentences // 2)
    return num_sentences


def static_output_rows(encoder_tokens: int, width: int, vocab_size: int) -> int:
    """Rows of the output projection that a step in place computes together: more at a time are fewer launches."""
    return max(output_rows_at_once(encoder_tokens, width, vocab_size), LEAST_OUTPUT_ROWS)
