"""The command line: parse, call one function, print; the only room that prints."""

from gcsearch.cli.app import main

__all__ = ["main"]
