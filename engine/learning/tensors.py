"""Reading safetensors files: what a file holds is checked before anything is computed with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from engine.errors import DataError
from engine.storage.paths import check_file

T = TypeVar("T")
Array = np.ndarray[Any, Any]


def read_tensors(path: str | Path, load: Callable[[str | Path], dict[str, T]]) -> dict[str, T]:
    """Read a file's tensors by name with ``load`` of safetensors. Raises ``DataError`` for a file it cannot read."""
    check_file(Path(path))
    try:
        return load(path)
    except Exception as error:  # each version of the reader has errors of its own
        raise DataError(f"{path}: cannot be read as tensors ({error}); train the model, or copy it, again") from None


def read_arrays(path: str | Path) -> dict[str, Array]:
    """Read a file's tensors as NumPy arrays."""
    return read_tensors(path, load_file)


def take_array(tensors: Mapping[str, Array], name: str, dtype: str, *shape: int | None) -> Array:
    """One tensor of finite numbers, of this dtype and shape; ``None`` in a shape is any length.

    Raises ``DataError`` naming the tensor.
    """
    if name not in tensors:
        raise DataError(f"tensor {name} is missing")
    array = tensors[name]
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.dtype(dtype):
        expected = tuple("any" if want is None else want for want in shape)
        raise DataError(f"tensor {name} is {array.dtype} of shape {array.shape}, expected {dtype} of shape {expected}")
    return array


def load_network(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Give a network its weights, whose names begin with ``prefix``. Raises ``DataError`` where they are of another."""
    check_network(network, tensors, prefix)
    network.load_state_dict({name: tensors[prefix + name] for name in network.state_dict()})


def check_network(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Raise ``DataError`` for the first weight that a network has and ``tensors`` lack, or hold in another shape."""
    for name, own in network.state_dict().items():
        given = tensors.get(prefix + name)
        if given is None:
            raise DataError(f"tensor {prefix}{name} is missing")
        if given.shape != own.shape or given.dtype != own.dtype:
            kinds = (f"{str(each.dtype).removeprefix('torch.')} of shape {tuple(each.shape)}" for each in (given, own))
            raise DataError(f"tensor {prefix}{name} is {next(kinds)}, expected {next(kinds)}")
        if given.is_floating_point() and not bool(torch.isfinite(given).all()):
            raise DataError(f"tensor {prefix}{name} holds NaN or infinity")


def check_weights(
    path: str | Path, networks: Mapping[str, Callable[[], nn.Module]], further: Mapping[str, tuple[int, ...]]
) -> None:
    """Check that a file holds the weights of ``networks``, by the prefix of their names, and ``further`` ones, no more.

    Networks are built without memory for their weights, so one of absurd size costs nothing. Raises ``DataError``.
    """
    from safetensors.torch import load_file

    tensors, expected = read_tensors(path, load_file), set(further)
    try:
        for prefix, build in networks.items():
            with torch.device("meta"):
                network = build()
            check_network(network, tensors, prefix)
            expected |= {prefix + name for name in network.state_dict()}
        for name, shape in further.items():
            if name not in tensors or tuple(tensors[name].shape) != shape or tensors[name].dtype != torch.float32:
                raise DataError(f"tensor {name} is missing, or is not float32 of shape {shape}")
    except DataError as error:
        raise DataError(f"{path}: {error}; train the model, or copy it, again") from None
    if left := sorted(set(tensors) - expected):
        raise DataError(f"{path}: holds tensors of another network: {', '.join(left[:5])}")
