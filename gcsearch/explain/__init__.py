"""What inserted blocks attend to: their maps as values, measures of them, and a picture."""

from gcsearch.explain.explanation import Explained, Explanation, explain
from gcsearch.explain.maps import (
    AttentionMap,
    attention_maps,
    entropy_ratio,
    mean_cosine_distance,
    why_no_map,
)
from gcsearch.explain.picture import draw

__all__ = [
    "AttentionMap",
    "Explained",
    "Explanation",
    "attention_maps",
    "draw",
    "entropy_ratio",
    "explain",
    "mean_cosine_distance",
    "why_no_map",
]
