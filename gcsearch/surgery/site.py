"""A site as a value: where a block may go, and what it will meet there; it holds no module."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AFTER_ADD", "BEFORE_ADD", "OTHER", "STAGE_END", "Site"]

AFTER_ADD = "after-add"
BEFORE_ADD = "before-add"
STAGE_END = "stage-end"
OTHER = "other"


@dataclass(frozen=True)
class Site:
    """A module whose output a block can transform.

    Args:
        path: Dotted path of the module.
        kind: What its output is: ``"after-add"``, the result of a residual addition (the paper's
            position); ``"before-add"``, the end of the branch that is about to be added (mmdet's
            ``after_conv3``); ``"stage-end"``, the last features of a resolution in a network
            without additions; ``"other"``.
        stage: Number of its resolution among those that the blocks of the network work at, from 1
            in order of execution; None for another resolution, e.g. the stem's.
        channels: Channels of the output.
        shape: Its shape without the batch, for the input size that was probed.
        layout: Order of its axes: ``"NCHW"``, ``"NHWC"``, ``"NLC"`` (tokens, a class token being
            one of them), ``"NCL"``, ``"NCTHW"`` or ``"NTHWC"`` (video).
        is_stage_end: Whether it is the last such place of its stage.

    Example:
        >>> site = Site("layer1.2", "after-add", 1, 256, (256, 56, 56), is_stage_end=True)
        >>> site.kinds, site.positions
        (('after-add', 'stage-end'), (56, 56))
    """

    path: str
    kind: str
    stage: int | None
    channels: int
    shape: tuple[int, ...]
    layout: str = "NCHW"
    is_stage_end: bool = False

    @property
    def positions(self) -> tuple[int, ...]:
        """Sizes of the axes over which a context is pooled."""
        axes = self.layout.removeprefix("N")
        return tuple(n for n, axis in zip(self.shape, axes, strict=True) if axis != "C")

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds it can be selected by."""
        return tuple(dict.fromkeys([self.kind, *([STAGE_END] if self.is_stage_end else [])]))
