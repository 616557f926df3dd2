"""The model card beside exported weights, in the form of Hugging Face's; it writes no file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gcsearch.export.exported_config import ExportedConfig

__all__ = ["CARD_START", "model_card"]

CARD_START = b"---\nlibrary_name: gcsearch\n"
"""How every card of ours begins."""

BODY = """\
# {title}

{backbone} with {n_blocks} inserted, {how}

| site | block |
|---|---|
{insertions}

## Load it

```python
import gcsearch

model = gcsearch.build("{weights}")  # the architecture is in the file's metadata
```

Input: pictures of {side} x {side}, RGB in [0, 1], normalised by mean {mean} and deviation {std}.
Output: scores of {n_classes} classes.

## Measured

{measured}

| metric | value | 95 % interval |
|---|---|---|
{metrics}

## Provenance

```json
{provenance}
```
"""

SHORT = """\
On the proxy task {task}, after a short training: these figures compare architectures, and say
little of what a full training reaches."""
FULL = "After a full training, on the {val}; test: {test}."


def model_card(config: ExportedConfig, weights: str) -> bytes:
    """Return a card with a YAML header that hubs read, and a body for people.

    Args:
        config: Of the network.
        weights: Name of the weights file beside the card.
    """
    said, architecture = config.provenance, config.architecture
    count = len(architecture.insertions)
    rows = [(i.site, str(i).removeprefix(i.site).strip()) for i in architecture.insertions]
    body = BODY.format(
        title=_word(said.get("study", architecture.backbone)),
        backbone=architecture.backbone,
        n_blocks=f"{count} block{'' if count == 1 else 's'}",
        insertions="\n".join(f"| `{site}` | {block} |" for site, block in rows) or "| none | |",
        weights=weights,
        side=config.image_size,
        mean=config.normalisation.get("mean"),
        std=config.normalisation.get("std"),
        n_classes=config.n_classes,
        how="trained to the end."
        if "full_training" in said
        else "found by a search with gcsearch.",
        measured=_measured(said),
        metrics="\n".join(_metric_rows(said)),
        provenance=json.dumps(said, indent=2, default=str).replace("```", "'''"),
    )
    header = yaml.safe_dump(_header(config), sort_keys=False)
    return f"---\n{header}---\n\n{body}".encode()


def _measured(said: Mapping[str, Any]) -> str:
    """Return what the figures are of: of a proxy training, or of a full one."""
    if "full_training" not in said:
        short = SHORT.format(task=_word(said.get("proxy_task", "it was searched on")))
        own, measured = said.get("weights_seed"), said.get("seed")
        if own in (None, measured):
            return short
        return (
            f"{short} The weights are of a training with seed {_word(own)}, top1 and gain of one "
            f"with seed {_word(measured)}."
        )
    val, test = (_word(said.get(key, "not yet")) for key in ("measured_on", "test_measured_on"))
    return FULL.format(val=val, test=test)


def _header(config: ExportedConfig) -> dict[str, Any]:
    said = config.provenance
    blocks = sorted({insertion.block for insertion in config.architecture.insertions})
    header: dict[str, Any] = {
        "library_name": "gcsearch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "gcsearch", config.architecture.backbone, *blocks],
        "metrics": ["accuracy"],
    }
    if isinstance(said.get("top1"), float):
        task = _word(said.get("data") or said.get("proxy_task", "unknown"))
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": task, "type": task},
            "metrics": [{"type": "accuracy", "name": "top1", "value": said["top1"]}],
        }
        name = _word(said.get("study", config.architecture.backbone))
        header["model-index"] = [{"name": name, "results": [result]}]
    return header


def _metric_rows(said: Mapping[str, Any]) -> list[str]:
    splits = ("top1", "test_top1")
    rows = [(key, said.get(key), said.get(f"{key}_interval")) for key in splits]
    rows += [(key, said.get(key), None) for key in ("top5", "test_top5")]
    rows += [(key, *_parted(said.get(key))) for key in ("gain", "latency_ratio")]
    # Exports of old call it a check.
    fresh = said.get("confirmation") or said.get("check")
    if isinstance(fresh, Mapping):
        name = f"gain on the test split, {_word(fresh.get('seeds'))} fresh seeds"
        rows.append((name, *_parted(fresh.get("gain"))))
    counted = ("macs_ratio", "params_ratio", "memory_ratio", "params", "macs")
    rows += [(key, said.get(key), None) for key in counted]
    return [f"| {k} | {_word(v)} | {_span(ends)} |" for k, v, ends in rows if v is not None]


def _parted(value: Any) -> tuple[Any, Any]:
    """Return an estimate and the ends of its interval."""
    return (value[0], value[1:]) if _is_list(value) and value else (None, None)


def _span(ends: Any) -> str:
    return f"[{', '.join(map(_word, ends))}]" if _is_list(ends) else ""


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _word(value: Any) -> str:
    """Return what may stand in a line or a cell of Markdown, whoever it comes from."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(shown.split()).replace("|", "/")[:200]
