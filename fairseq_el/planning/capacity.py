"""The room that a decode state is given."""


def capacity_for(num_nodes: int, beam_size: int) -> int:
    """Room that pools are given when they must hold ``num_nodes`` nodes: an eighth more, and at least four steps."""
    room = num_nodes + max(num_nodes // 8, 4 * beam_size)
    return -(-room // 8) * 8
