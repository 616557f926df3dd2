"""What Optuna's dashboard shows of a study beside its numbers: notes, artifacts, the server."""

from gcsearch.dashboard.annotator import Annotator
from gcsearch.dashboard.server import serve

__all__ = ["Annotator", "serve"]
