"""Files that are read with clear errors, and written whole or not at all."""

from fairseq_el.files.manifest import CHUNK, MANIFEST, inputs_of, is_unused_or_own, refuse_unless_own, sha256_of
from fairseq_el.files.output_paths import Paths, need_directory, refuse_to_overwrite, refuse_to_overwrite_directory
from fairseq_el.files.reading import (
    DIRECTORY,
    FILE,
    TextLines,
    kind_of,
    lines_of,
    nested_too_deep,
    one_line,
    other_encoding,
    read_json,
    read_lines,
    read_text,
    require_file,
    without_mark,
)
from fairseq_el.files.staging import PART, followed, refuse_if_being_made, remove_abandoned, staging_directory
from fairseq_el.files.whole_files import give_name, write_whole, write_whole_directory

__all__ = [
    "CHUNK",
    "DIRECTORY",
    "FILE",
    "MANIFEST",
    "PART",
    "Paths",
    "TextLines",
    "followed",
    "give_name",
    "inputs_of",
    "is_unused_or_own",
    "kind_of",
    "lines_of",
    "need_directory",
    "nested_too_deep",
    "one_line",
    "other_encoding",
    "read_json",
    "read_lines",
    "read_text",
    "refuse_if_being_made",
    "refuse_to_overwrite",
    "refuse_to_overwrite_directory",
    "refuse_unless_own",
    "remove_abandoned",
    "require_file",
    "sha256_of",
    "staging_directory",
    "without_mark",
    "write_whole",
    "write_whole_directory",
]
