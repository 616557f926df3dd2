"""Proxy tasks and proxy training: the data and the short training that score an architecture."""

from gcsearch.proxy.sources import load_task
from gcsearch.proxy.task import ProxyTask, Split

__all__ = ["ProxyTask", "Split", "load_task"]
