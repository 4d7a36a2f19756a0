"""Models from the weights of other releases: state dicts of GCN-V, GCN-V+E, L-GCN and STAR-FC of the published shapes.

Each method reads its own state dicts (``convert.py`` in its folder). Thresholds are the published ones; ``--set
partition.min_score=...`` asks for others. The docstring of a method says what a released network differs in from ours;
the converted one runs as ours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from engine.errors import ConfigError
from engine.methods.model_card import MODEL_FILE, WEIGHTS_FILE, write_model
from engine.methods.registry import METHODS
from engine.methods.state_dict import read_state_dict
from engine.storage import manifest
from engine.storage.cache import local_copy
from engine.storage.outputs import out_folder
from engine.storage.paths import check_out_file
from engine.storage.remote import is_url


def convert(method: str, states: Sequence[str | Path], out: str | Path, *, k: int = 80) -> Path:
    """Write the model's folder ``out``; returns it.

    ``states``: one file, but two for ``gcn_e`` (GCN-V's, then GCN-E's) and for ``star_fc`` (the network's, then the
    head's). ``k``: neighbours that it was trained with. ``out``: a folder that is empty, or holds a converted model,
    which is replaced. Raises ``ConfigError`` for another method, number of files or folder, ``DataError`` naming what a
    file holds instead of the tensors, or the tensor that is missing or of another shape.
    """
    known = [name for name, each in METHODS.items() if each.num_states]
    if method not in known:
        raise ConfigError(f"convert knows {', '.join(known)}; got {method}")
    count = METHODS[method].num_states
    if len(states) != count:
        raise ConfigError(f"convert {method} takes {count} state file(s), got {len(states)}")
    out = _checked_out(out, states)
    converted = METHODS[method].convert(*(read_state_dict(local_copy(path)) for path in states))
    facts = converted.nature.as_facts()
    with manifest.explain_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.detach().float().contiguous().clone() for name, tensor in converted.weights.items()})
    write_model(
        out,
        data,
        method=method,
        dim=converted.dim,
        k=k,
        settings=facts,
        operating_points={converted.partition: converted.point.model_dump(exclude_unset=True)},
        preferred=converted.partition,
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
