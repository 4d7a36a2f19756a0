"""A model from the released GCN-V's state dict."""

from __future__ import annotations

from engine.methods.gcn_v.settings import GcnVSettings
from engine.methods.model_card import Nature
from engine.methods.state_dict import Converted, StateDict
from engine.partitions.base import OperatingPoint


def convert(state: StateDict) -> Converted:
    """Convert the confidence network; raises ``DataError`` for tensors of another network."""
    weight, bias = state.convolution("conv1")
    weights = {"convolution.linear.weight": weight, "convolution.linear.bias": bias, **state.classifier(len(bias), 1)}
    state.finish()
    network = GcnVSettings(hidden=len(bias), vertices_per_step=0).model_dump(mode="json")
    nature = Nature(network=network, link_pass="vectors")
    return Converted(
        weights, weight.shape[1] // 2, nature, "components", OperatingPoint(min_score=0.65, min_intimacy=0.0)
    )
