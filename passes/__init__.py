"""Built-in passes, one per file."""

if __name__ != "qpc.passes":
    raise ImportError(f"this folder is the package 'qpc.passes'; it was imported as {__name__!r}")

from qpc.passes.calibrate import Calibrate
from qpc.passes.compensate_rounding import CompensateRounding
from qpc.passes.convert_to_integer import ConvertToInteger
from qpc.passes.correct_bias import CorrectBias
from qpc.passes.create_masks import CreateMasks
from qpc.passes.end_training import EndTraining
from qpc.passes.equalize_weights import EqualizeWeights
from qpc.passes.fake_quantize import FakeQuantize
from qpc.passes.fit_weight_scales import FitWeightScales
from qpc.passes.flatten_conv3d import FlattenConv3d
from qpc.passes.fold_batch_norm import FoldBatchNorm
from qpc.passes.fold_weights import FoldWeights
from qpc.passes.follow_ranges import FollowRanges
from qpc.passes.freeze_batch_norm import FreezeBatchNorm
from qpc.passes.freeze_grids import FreezeGrids
from qpc.passes.import_grids import ImportGrids
from qpc.passes.import_quantized import ImportQuantized
from qpc.passes.insert_observers import InsertObservers
from qpc.passes.learn_grids import LearnGrids
from qpc.passes.learn_rounding import LearnRounding
from qpc.passes.lift_conv1d import LiftConv1d
from qpc.passes.linear_products import LinearProducts
from qpc.passes.make_masks_permanent import MakeMasksPermanent
from qpc.passes.mask_weights import MaskWeights
from qpc.passes.match_moments import MatchMoments
from qpc.passes.merge_clamps import MergeClamps
from qpc.passes.merge_tables import MergeTables
from qpc.passes.propagate_masks import PropagateMasks
from qpc.passes.quantize_weights import QuantizeWeights
from qpc.passes.reestimate_batch_norm import ReestimateBatchNorm
from qpc.passes.remove_channels import RemoveChannels
from qpc.passes.remove_identities import RemoveIdentities
from qpc.passes.round_biases import RoundBiases
from qpc.passes.smooth_activations import SmoothActivations
from qpc.passes.take_calibration import TakeCalibration

__all__ = [
    "Calibrate",
    "CompensateRounding",
    "ConvertToInteger",
    "CorrectBias",
    "CreateMasks",
    "EndTraining",
    "EqualizeWeights",
    "FakeQuantize",
    "FitWeightScales",
    "FlattenConv3d",
    "FoldBatchNorm",
    "FoldWeights",
    "FollowRanges",
    "FreezeBatchNorm",
    "FreezeGrids",
    "ImportGrids",
    "ImportQuantized",
    "InsertObservers",
    "LearnGrids",
    "LearnRounding",
    "LiftConv1d",
    "LinearProducts",
    "MakeMasksPermanent",
    "MaskWeights",
    "MatchMoments",
    "MergeClamps",
    "MergeTables",
    "PropagateMasks",
    "QuantizeWeights",
    "ReestimateBatchNorm",
    "RemoveChannels",
    "RemoveIdentities",
    "RoundBiases",
    "SmoothActivations",
    "TakeCalibration",
]
