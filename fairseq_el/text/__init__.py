"""Text in, text out, with checkpoints of fairseq: lines are read, batched, decoded and made text again."""

from fairseq_el.text.deciding_inputs import deciding_files, deciding_options
from fairseq_el.text.generator import Generator
from fairseq_el.text.loading import Settings, read_settings
from fairseq_el.text.place import Place, place_of

__all__ = ["Generator", "Place", "Settings", "deciding_files", "deciding_options", "place_of", "read_settings"]
