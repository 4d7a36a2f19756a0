"""State dicts of other releases, read as tensors alone: nothing is unpickled, because that can run code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.errors import DataError
from engine.methods.model_card import Nature
from engine.partitions.base import OperatingPoint
from engine.partitions.settings import PartitionName
from engine.storage.paths import check_file


@dataclass(frozen=True)
class Converted:
    """A released network as a model of ours: its weights, D, nature, and the published partition and thresholds."""

    weights: dict[str, Tensor]
    dim: int
    nature: Nature
    partition: PartitionName
    point: OperatingPoint


class StateDict:
    """The tensors of a released network: ``take`` hands out each of them once, and ``finish`` refuses what is left."""

    def __init__(self, path: Path, state: Mapping[str, Tensor]) -> None:
        self.path, self.left = path, dict(state)

    def take(self, name: str, *shape: int | None) -> Tensor:
        if name not in self.left:
            raise DataError(f"{self.path}: no tensor {name}; it holds {', '.join(sorted(self.left)) or 'nothing more'}")
        tensor = self.left.pop(name)
        wrong = len(tensor.shape) != len(shape) or any(
            got != want if want is not None else got < 1 for want, got in zip(shape, tensor.shape, strict=True)
        )
        if wrong:
            expected = tuple("any but 0" if want is None else want for want in shape)
            raise DataError(f"{self.path}: tensor {name} is of shape {tuple(tensor.shape)}, expected {expected}")
        return tensor

    def convolution(self, name: str, given: int | None = None) -> tuple[Tensor, Tensor]:
        """A convolution's weights, as a linear layer holds them, and bias: released ones are (2 x in, out)."""
        weight = self.take(f"{name}.weight", None if given is None else 2 * given, None)
        if weight.shape[0] % 2:
            raise DataError(
                f"{self.path}: tensor {name}.weight is of shape {tuple(weight.shape)}, expected (2 x in, out)"
            )
        return weight.T, self.take(f"{name}.bias", weight.shape[1])

    def classifier(self, width: int, classes: int) -> dict[str, Tensor]:
        """The classifier's two layers and activation, by our names; two classes as the difference of their logits."""
        hidden = self.take("classifier.0.weight", None, width)
        found = {
            "first.weight": hidden,
            "first.bias": self.take("classifier.0.bias", len(hidden)),
            "activation.weight": self.take("classifier.1.weight", len(hidden)),
        }
        last = self.take("classifier.2.weight", classes, len(hidden))
        bias = self.take("classifier.2.bias", classes)
        if classes == 2:
            last, bias = last[1:] - last[:1], bias[1:] - bias[:1]
        return found | {"last.weight": last, "last.bias": bias}

    def finish(self) -> None:
        if self.left:
            raise DataError(f"{self.path}: tensors of another network: {', '.join(sorted(self.left))}")


def take_pivot_network(state: StateDict) -> tuple[dict[str, Tensor], list[int], int, int]:
    """Take the four convolutions and the classifier that GCN-E and L-GCN share: weights, widths, D and hidden width."""
    weights: dict[str, Tensor] = {}
    widths: list[int] = []
    dim = 0
    for number in range(4):
        weight, bias = state.convolution(f"conv{number + 1}", widths[-1] if widths else None)
        weights |= {f"convolutions.{number}.weight": weight, f"convolutions.{number}.bias": bias}
        dim = dim or weight.shape[1] // 2
        widths.append(len(bias))
    weights |= state.classifier(widths[-1], 2)
    return weights, widths, dim, len(weights["first.bias"])


_STATE = "expected a state dict, tensors by name, as torch.save(model.state_dict(), FILE) or safetensors writes it"
_STARTS = (b"PK", b"\x80")  # of torch's files, now and before 1.6


def read_state_dict(path: Path) -> StateDict:
    """Read a file of tensors alone; raises ``DataError`` naming what it holds instead."""
    num_bytes = check_file(path, "state dict").stat().st_size
    tree = _read_tree(path)
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else tree
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds a {type(state).__name__}; {_STATE}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: holds a {type(value).__name__} under {name!r}; {_STATE}, or under 'state_dict'")
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            kind = "quantised" if value.is_quantized else f"{value.layout} of {value.dtype}".replace("torch.", "")
            raise DataError(f"{path}: tensor {name} is {kind}; expected dense real numbers")
        if value.numel() * value.element_size() > num_bytes:
            raise DataError(
                f"{path}: tensor {name} of shape {tuple(value.shape)} is to hold more than the {num_bytes:,} bytes here"
            )
        if not torch.isfinite(value.float()).all():
            raise DataError(f"{path}: tensor {name} holds NaN or infinity")
    return StateDict(path, {name.removeprefix("module."): value for name, value in state.items()})


def _read_tree(path: Path) -> Any:
    with path.open("rb") as stream:
        start = stream.read(16)
    if not start:
        raise DataError(f"{path}: is empty; {_STATE}")
    tensors = path.suffix == ".safetensors"
    if not tensors and not start.startswith(_STARTS):
        raise DataError(f"{path}: begins with {start!r}, as no file of torch does; {_STATE}")
    try:
        return load_file(path) if tensors else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or unsafe file makes the readers raise
        if isinstance(error, UnpicklingError):
            found = re.search(r"GLOBAL (\S+)", str(error))
            objects = f"objects of {found[1]}" if found else "other objects than tensors"
            raise DataError(f"{path}: holds {objects}, and none is unpickled, as that can run code; {_STATE}") from None
        raise DataError(f"{path}: cannot be read: {re.split('[.] ', str(error))[0]}; {_STATE}") from error
