"""Models from the weights of other releases: state dicts of GCN-V, GCN-V+E, L-GCN and STAR-FC of the published shapes.

Files are read as tensors alone (``torch.load(weights_only=True)``, or safetensors), never unpickled. Thresholds are the
published ones; ``--set partition.min_score=...`` asks for others. What a released network differs in from ours is in
the docstring of its method: the converted one runs as ours do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from engine.errors import ConfigError, DataError
from engine.methods.gcn_e.method import PREFIX
from engine.methods.gcn_e.settings import GcnESettings
from engine.methods.gcn_v.settings import GcnVSettings
from engine.methods.l_gcn.settings import LGcnSettings
from engine.methods.model_card import MODEL_FILE, WEIGHTS_FILE, write_model
from engine.methods.star_fc.settings import StarFcSettings
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.outputs import out_folder
from engine.storage.paths import check_file, check_out_file
from engine.storage.remote import is_url

State = Mapping[str, Tensor]
Converted = tuple[dict[str, Tensor], int, dict[str, Any], dict[str, dict[str, float]]]
BATCH_NORM_EPSILON = 1e-5


def convert(method: str, states: Sequence[str | Path], out: str | Path, *, k: int = 80) -> Path:
    """Write the model's folder ``out``; returns it.

    ``states``: one file, but two for ``gcn_e`` (GCN-V's, then GCN-E's) and for ``star_fc`` (the network's, then the
    head's). ``k``: neighbours that it was trained with. ``out``: a folder that is empty, or holds a converted model,
    which is replaced. Raises ``ConfigError`` for another method, number of files or folder, ``DataError`` naming what a
    file holds instead of the tensors, or the tensor that is missing or of another shape.
    """
    if method not in _CONVERTERS:
        raise ConfigError(f"convert knows {', '.join(_CONVERTERS)}; got {method}")
    count, converter = _CONVERTERS[method]
    if len(states) != count:
        raise ConfigError(f"convert {method} takes {count} state file(s), got {len(states)}")
    out = _checked_out(out, states)
    weights, dim, facts, points = converter(*(_read(local_copy(path)) for path in states))
    with manifest.explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.detach().float().contiguous().clone() for name, tensor in weights.items()})
    (preferred,) = points
    write_model(
        out,
        data,
        method=method,
        dim=dim,
        k=k,
        settings=facts,
        operating_points=points,
        preferred=preferred,
        facts={**facts, "converted_from": [Path(path).name for path in states]},
    )
    return out


def _checked_out(out: str | Path, states: Sequence[str | Path]) -> Path:
    """The model's folder, unless writing the model there would replace something else."""
    if is_url(out):
        raise ConfigError(f"--out {out}: a model is converted into a folder of this machine; copy it to the URL then")
    folder = Path(out_folder(out))
    for name in (WEIGHTS_FILE, MODEL_FILE):
        check_out_file(folder / name, never=[Path(state) for state in states if not is_url(state)])
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if held and held != {WEIGHTS_FILE, MODEL_FILE}:
        raise ConfigError(f"--out {folder}: is not empty and holds no converted model; choose another folder")
    return folder


class _Reader:
    """Takes tensors out of a state dict, checking their shapes; complains of what is left."""

    def __init__(self, path: Path, state: State) -> None:
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


def _gcn_v(reader: _Reader) -> Converted:
    weight, bias = reader.convolution("conv1")
    weights = {"convolution.linear.weight": weight, "convolution.linear.bias": bias, **reader.classifier(len(bias), 1)}
    reader.finish()
    network = GcnVSettings(hidden=len(bias), vertices_per_step=0).model_dump(mode="json")
    point = {"components": {"min_score": 0.65, "min_intimacy": 0.0}}
    return weights, weight.shape[1] // 2, {"network": network, "pass": "vectors"}, point


def _pivot_network(reader: _Reader) -> tuple[dict[str, Tensor], list[int], int, int]:
    """The four convolutions and the classifier that GCN-E and L-GCN share: weights, widths, D and the hidden width."""
    weights: dict[str, Tensor] = {}
    widths: list[int] = []
    dim = 0
    for number in range(4):
        weight, bias = reader.convolution(f"conv{number + 1}", widths[-1] if widths else None)
        weights |= {f"convolutions.{number}.weight": weight, f"convolutions.{number}.bias": bias}
        dim = dim or weight.shape[1] // 2
        widths.append(len(bias))
    weights |= reader.classifier(widths[-1], 2)
    return weights, widths, dim, len(weights["first.bias"])


def _gcn_e(confidence: _Reader, reader: _Reader) -> Converted:
    given, dim, facts, _ = _gcn_v(confidence)
    weights, widths, embedded, hidden = _pivot_network(reader)
    reader.finish()
    if embedded != facts["network"]["hidden"]:
        raise DataError(
            f"{reader.path}: takes embeddings of {embedded}, {confidence.path} gives {facts['network']['hidden']}"
        )
    weights |= {"input_mean": torch.zeros(embedded), "input_scale": torch.ones(embedded)}
    weights |= {f"{PREFIX}{name}": tensor for name, tensor in given.items()}
    config = GcnESettings(inputs="embedded", widths=tuple(widths), hidden=hidden).model_dump(mode="json")
    network = {"gcn_v": facts["network"], "gcn_e": config}
    point = {"components": {"min_score": 0.80, "min_intimacy": 0.0}}
    return weights, dim, {"network": network, "min_probability": 0.0, "pass": "embedded"}, point


def _l_gcn(reader: _Reader) -> Converted:
    mean, variance = reader.take("bn0.running_mean", None), reader.take("bn0.running_var", None)
    reader.left.pop("bn0.num_batches_tracked", None)
    weights, widths, dim, hidden = _pivot_network(reader)
    reader.finish()
    if len(mean) != dim:
        raise DataError(f"{reader.path}: bn0 is of {len(mean)} dimensions, conv1 takes {dim}")
    weights |= {"input_mean": mean, "input_scale": 1 / (variance + BATCH_NORM_EPSILON).sqrt()}
    network = LGcnSettings(widths=tuple(widths), hidden=hidden).model_dump(mode="json")
    return weights, dim, {"network": network}, {"propagation": {"min_score": 0.5, "max_size": 300}}


def _star_fc(reader: _Reader, head: _Reader) -> Converted:
    weight, bias = reader.convolution("conv1")
    reader.finish()
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
    network = StarFcSettings(head="concat", hidden=hidden, head_hidden=width).model_dump(mode="json")
    point = {"components": {"min_score": 0.70, "min_intimacy": 0.72}}
    return weights, weight.shape[1] // 2, {"network": network}, point


_CONVERTERS: dict[str, tuple[int, Callable[..., Converted]]] = {
    "gcn_v": (1, _gcn_v),
    "gcn_e": (2, _gcn_e),
    "l_gcn": (1, _l_gcn),
    "star_fc": (2, _star_fc),
}


_STATE = "expected a state dict, tensors by name, as torch.save(model.state_dict(), FILE) or safetensors writes it"
_STARTS = (b"PK", b"\x80")  # of torch's files, now and before 1.6


def _read(path: Path) -> _Reader:
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
    return _Reader(path, {name.removeprefix("module."): value for name, value in state.items()})


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
