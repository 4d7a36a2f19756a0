"""A model from the released L-GCN's state dict."""

from __future__ import annotations

from engine.errors import DataError
from engine.methods.l_gcn.settings import LGcnSettings
from engine.methods.model_card import Nature
from engine.methods.state_dict import Converted, StateDict, take_pivot_network
from engine.partitions.base import OperatingPoint

BATCH_NORM_EPSILON = 1e-5


def convert(state: StateDict) -> Converted:
    """Convert the network; raises ``DataError`` for tensors of another network."""
    mean, variance = state.take("bn0.running_mean", None), state.take("bn0.running_var", None)
    state.left.pop("bn0.num_batches_tracked", None)
    weights, widths, dim, hidden = take_pivot_network(state)
    state.finish()
    if len(mean) != dim:
        raise DataError(f"{state.path}: bn0 is of {len(mean)} dimensions, conv1 takes {dim}")
    weights |= {"input_mean": mean, "input_scale": 1 / (variance + BATCH_NORM_EPSILON).sqrt()}
    nature = Nature(network=LGcnSettings(widths=tuple(widths), hidden=hidden).model_dump(mode="json"))
    return Converted(weights, dim, nature, "propagation", OperatingPoint(min_score=0.5, max_size=300))
