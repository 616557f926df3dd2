"""Taking an architecture away: config and weights files, and back to a module."""

from gcsearch.export.files import (
    ExportedConfig,
    build,
    read_config,
    write_atomically,
    write_config,
    write_weights,
)

__all__ = [
    "ExportedConfig",
    "build",
    "read_config",
    "write_atomically",
    "write_config",
    "write_weights",
]
