"""A model from the released STAR-FC's state dicts of network and head."""

from __future__ import annotations

from engine.methods.model_card import Nature
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.state_dict import Converted, StateDict
from engine.partitions.base import OperatingPoint


def convert(state: StateDict, head: StateDict) -> Converted:
    """Convert the convolution and the head; raises ``DataError`` for tensors of other networks."""
    weight, bias = state.convolution("conv1")
    state.finish()
    hidden = len(bias)
    first = head.take("classifier.0.weight", None, 2 * hidden)
    width = len(first)
    weights = {
        "convolution.linear.weight": weight,
        "convolution.linear.bias": bias,
        "head.first.weight": first,
        "head.first.bias": head.take("classifier.0.bias", width),
        "head.activation.weight": head.take("classifier.1.weight", width),
        "head.last.weight": head.take("classifier.2.weight", 2, width),
        "head.last.bias": head.take("classifier.2.bias", 2),
    }
    head.finish()
    nature = Nature(network=StarFcSettings(head="concat", hidden=hidden, head_hidden=width).model_dump(mode="json"))
    return Converted(
        weights, weight.shape[1] // 2, nature, "components", OperatingPoint(min_score=0.70, min_intimacy=0.72)
    )
