"""Folding of input scales into the modules before a layer, so that nothing is multiplied at run time."""

from arrow_quant_v2.torch.folding.fold import FoldGroup, fold, fold_groups, foldable
from arrow_quant_v2.torch.folding.integer_layers import fold_equalization

__all__ = ["FoldGroup", "fold", "fold_equalization", "fold_groups", "foldable"]
