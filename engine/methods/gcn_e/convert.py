"""A model from the released state dicts of GCN-V and GCN-E."""

from __future__ import annotations

import torch

from engine.errors import DataError
from engine.methods.gcn_e.settings import GcnESettings
from engine.methods.gcn_e.steps import PREFIX
from engine.methods.gcn_v import convert as gcn_v
from engine.methods.model_card import Nature
from engine.methods.state_dict import Converted, StateDict, take_pivot_network
from engine.partitions.base import OperatingPoint


def convert(confidence: StateDict, state: StateDict) -> Converted:
    """Convert both networks; raises ``DataError`` for tensors of other networks, or of two that do not fit together."""
    first = gcn_v.convert(confidence)
    weights, widths, embedded, hidden = take_pivot_network(state)
    state.finish()
    given = first.nature.network["hidden"]
    if embedded != given:
        raise DataError(f"{state.path}: takes embeddings of {embedded}, {confidence.path} gives {given}")
    weights |= {"input_mean": torch.zeros(embedded), "input_scale": torch.ones(embedded)}
    weights |= {f"{PREFIX}{name}": tensor for name, tensor in first.weights.items()}
    network = GcnESettings(inputs="embedded", widths=tuple(widths), hidden=hidden).model_dump(mode="json")
    networks = {"gcn_v": first.nature.network, "gcn_e": network}
    nature = Nature(network=networks, min_probability=0.0, link_pass="embedded")
    return Converted(weights, first.dim, nature, "components", OperatingPoint(min_score=0.80, min_intimacy=0.0))
