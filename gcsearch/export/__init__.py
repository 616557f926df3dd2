"""Taking an architecture away: config, weights and other projects' formats, and back."""

from gcsearch.export.exported_config import ExportedConfig
from gcsearch.export.files import write_atomically, write_config, write_weights
from gcsearch.export.reading import build, read_config

__all__ = [
    "ExportedConfig",
    "build",
    "read_config",
    "write_atomically",
    "write_config",
    "write_weights",
]
