"""A package of QPC passes, as somebody else would write it."""

from sample_passes.fold_scales import SCALE_FREE, FoldScales

__all__ = ["SCALE_FREE", "FoldScales"]
