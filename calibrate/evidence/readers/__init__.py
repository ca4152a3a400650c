"""Files of other tools' results, read into runs: by what they hold, never by what they are called."""

from __future__ import annotations

from calibrate.evidence.readers.registry import READERS, Reader, read_file, read_text, reader_of

__all__ = ["READERS", "Reader", "read_file", "read_text", "reader_of"]
