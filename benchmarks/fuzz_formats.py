"""The formats that ``fuzz.py`` damages: how a small valid one is written, how it is read in full, how it is damaged."""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from pyarrow import feather
from safetensors.torch import save as save_tensors

from engine.commands.configuration import load_settings
from engine.commands.conversion import convert
from engine.commands.resources import load_resources
from engine.learning.tensors import read_arrays
from engine.methods.model_card import write_model
from engine.methods.registry import METHODS, read_model
from engine.methods.structural.scorer import ALL_NAMES, INPUT_NAMES, StructuralScorer, from_tensors, to_tensors
from engine.methods.structural.trees import Trees
from engine.storage import manifest
from engine.storage.formats.knn_graph import normalise_knn_block, open_knn_graph
from engine.storage.formats.label_files import read_labels
from engine.storage.formats.registry import open_source
from engine.storage.owned import CHECKSUM, tree_checksum

ROWS, DIM, K = 40, 6, 4
Random = np.random.Generator


@dataclass(frozen=True)
class Format:
    """``write`` fills a folder with a valid example; ``read`` reads all of it from there, by way of the product."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]


def vectors() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, DIM)).astype("<f4")


def table() -> pa.Table:
    return pa.table({
        "id": [f"row {i}" for i in range(ROWS)], "vector": list(vectors()),
        "caption": [f"text é {i}" for i in range(ROWS)],
        "number": list(range(ROWS)),
    })  # fmt: skip


def source(name: str) -> Callable[[Path], object]:
    """What reads the source of this name: rows in blocks, forwards and again, ids and items."""

    def read(folder: Path) -> object:
        opened = open_source(folder / name, dim=DIM if name.endswith(".bin") else None)
        opened.items(0, 0)
        for start in range(0, opened.num_rows, max(1, min(opened.num_rows // 3, 4096))):
            stop = min(start + max(1, min(opened.num_rows // 3, 4096)), opened.num_rows)
            opened.read(start, stop)
            opened.items(start, stop)
        opened.read(0, min(3, opened.num_rows))
        ids = opened.ids()
        return opened.files(), opened.companions(), None if ids is None else ids.to_pylist()

    return read


def labels(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        return read_labels(folder / name), read_labels(folder / name, ROWS)

    return read


def graph(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        opened = open_knn_graph(folder / name, ROWS)
        for start in range(0, ROWS, 16):
            stop = min(start + 16, ROWS)
            neighbors, similarities = opened.read(start, stop)
            if similarities is None:
                similarities = np.ones(neighbors.shape, np.float32)
            normalise_knn_block(start, neighbors, similarities, ROWS)
        return opened.files()

    return read


def config(folder: Path) -> object:
    return load_settings(folder / "config.yaml"), load_resources(folder / "config.yaml")


def state(method: str, *names: str) -> Callable[[Path], object]:
    return lambda folder: convert(method, [folder / name for name in names], folder / "out", k=K)


def model(folder: Path) -> object:
    """Open a model as a run does; trees also score edges, by a compiled kernel that reads where they point."""
    opened = read_model(folder, DIM)
    METHODS[opened.method].check_model(opened)
    if opened.method == "structural":
        scorer = from_tensors(read_arrays(opened.weights))
        rows = np.zeros((5, len(ALL_NAMES)), np.float32)
        return [trees.logits(rows) for trees in scorer.priors] + [scorer.final.logits(rows)]
    return opened


def write_vectors(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        rows, path = vectors(), folder / name
        if name.endswith(".npy"):
            np.save(path, rows)
            (folder / "items.txt").write_text("".join(f"item {i}\n" for i in range(ROWS)))
        elif name.endswith(".bin"):
            rows.tofile(path)
        elif name == "stored.npz":
            np.savez(path, features=rows, other=np.arange(3))
        elif name == "packed.npz":
            np.savez_compressed(path, features=rows)
        elif name.endswith(".fbin"):
            path.write_bytes(np.array(rows.shape, "<u4").tobytes() + rows.tobytes())
        elif name.endswith(".fvecs"):
            np.column_stack([np.full((ROWS, 1), DIM, "<i4").view("<f4"), rows]).tofile(path)
        else:
            raise ValueError(f"{name}: write_vectors knows no such suffix")

    return write


def write_arrow(folder: Path) -> None:
    made = table()
    with pa.ipc.new_file(folder / "x.arrow", made.schema) as writer:
        writer.write_table(made, max_chunksize=16)


def write_zarr(version: int, **further: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        made = zarr.create_array(
            folder / "x.zarr", shape=(ROWS, DIM), dtype="f4", chunks=(8, DIM), zarr_format=version, **further
        )  # type: ignore[call-overload]
        made[:] = vectors()

    return write


def write_group(folder: Path) -> None:
    made = zarr.create_group(folder / "x.zarr")
    made.create_array("features", shape=(ROWS, DIM), dtype="f4", chunks=(16, DIM))[:] = vectors()
    made.create_array("labels", shape=(ROWS,), dtype="i8", chunks=(16,))[:] = np.arange(ROWS)


def write_cdp(folder: Path) -> None:
    (folder / "cdp" / "features").mkdir(parents=True)
    vectors().tofile(folder / "cdp" / "features" / "net.bin")
    (folder / "cdp" / "list.txt").write_text("".join(f"name {i}\n" for i in range(ROWS)))


def write_embeddings(folder: Path) -> None:
    (folder / "parts").mkdir()
    for part in range(2):
        rows = slice(part * ROWS // 2, (part + 1) * ROWS // 2)
        np.save(folder / "parts" / f"img_emb_{part}.npy", vectors()[rows].astype(np.float16))
        pq.write_table(table().drop_columns("vector")[rows], folder / "parts" / f"metadata_{part}.parquet")


def write_labels(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        made, path = np.arange(ROWS) // 5 - 1, folder / name
        if name.endswith((".txt", ".meta")):
            path.write_text("".join(f"{label}\n" for label in made))
        elif name.endswith(".npy"):
            np.save(path, made)
        elif name.endswith(".npz"):
            np.savez_compressed(path, labels=made)
        else:
            pq.write_table(pa.table({"label": made, "text": ["x"] * ROWS}), path)

    return write


def write_graph(name: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        ids, path = (np.arange(ROWS)[:, None] + np.arange(K)) % ROWS, folder / name
        if name.endswith(".npz"):
            np.savez(path, data=np.stack([ids, ids * 0.01], 1).astype(np.float32))
        elif name.endswith(".npy"):
            np.save(path, ids)
        else:
            path.mkdir()
            np.save(path / "neighbors.npy", ids.astype(np.int32))
            np.save(path / "similarities.npy", np.ones(ids.shape, np.float32))

    return write


CONFIG = """
# Settings of a run.
preset: star_fc/default
method: star_fc
seed: 7
knn: &graph {k: 20, mode: exact}
train:
  max_steps: 100
  learning_rate: 2.0e-3
  milestones: [0.5, 0.8]
  optimizer: "sgd"
gcn_d:
  unions: [[2, 8], [3, 5]]
partition: {method: components, min_score: 0.5, min_intimacy: adaptive}
resources:
  memory_bytes: 8GB
  custom_resources: {big: 1.5}
"""


def state_dict() -> dict[str, torch.Tensor]:
    generator, width = torch.Generator().manual_seed(0), 8
    shapes = {"conv1.weight": (2 * DIM, width), "conv1.bias": (width,), "classifier.0.weight": (width, width),
              "classifier.0.bias": (width,), "classifier.1.weight": (width,), "classifier.2.weight": (1, width),
              "classifier.2.bias": (1,)}  # fmt: skip
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_trees(folder: Path) -> None:
    """A structural model of a few small trees."""
    random = np.random.default_rng(3)

    def trees(columns: int) -> Trees:
        inputs = random.integers(0, columns, (2, 7)).astype(np.int16)
        return Trees(inputs, random.random((2, 7), np.float32), random.random((2, 8), np.float32), 0.5)

    from safetensors.numpy import save

    scorer = StructuralScorer((trees(len(INPUT_NAMES)),), trees(len(ALL_NAMES)))
    _write_model(folder, save(to_tensors(scorer)), "structural", {"min_similarity": 0.0})


def write_network(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as made:
        torch.save(state_dict(), f"{made}/state.pt")
        convert("gcn_v", [f"{made}/state.pt"], folder, k=K)


def _write_model(folder: Path, weights: bytes, method: str, facts: dict[str, Any]) -> None:
    points = {"components": {"min_score": 0.5, "min_intimacy": 0.1}}
    write_model(folder, weights, method=method, dim=DIM, k=K, settings={}, operating_points=points,
                preferred="components", facts=facts)  # fmt: skip


FORMATS: dict[str, Format] = {  # a new one stands last: the draw of a mutation counts the place
    "bin": Format(write_vectors("x.bin"), source("x.bin")),
    "npy": Format(write_vectors("x.npy"), source("x.npy")),
    "npz_stored": Format(write_vectors("stored.npz"), source("stored.npz")),
    "npz_packed": Format(write_vectors("packed.npz"), source("packed.npz")),
    "fvecs": Format(write_vectors("x.fvecs"), source("x.fvecs")),
    "fbin": Format(write_vectors("x.fbin"), source("x.fbin")),
    "parquet": Format(lambda folder: pq.write_table(table(), folder / "x.parquet", row_group_size=16),
                      source("x.parquet")),
    "arrow": Format(write_arrow, source("x.arrow")),
    "feather": Format(lambda folder: feather.write_feather(table(), folder / "x.feather", "uncompressed"),
                      source("x.feather")),
    "feather_lz4": Format(lambda folder: feather.write_feather(table(), folder / "x.feather", "lz4"),
                          source("x.feather")),
    "zarr_v2": Format(write_zarr(2), source("x.zarr")),
    "zarr_v3": Format(write_zarr(3), source("x.zarr")),
    "zarr_shards": Format(write_zarr(3, shards=(16, DIM)), source("x.zarr")),
    "zarr_group": Format(write_group, source("x.zarr")),
    "cdp": Format(write_cdp, source("cdp")),
    "image_embeddings": Format(write_embeddings, source("parts")),
    "labels_txt": Format(write_labels("y.txt"), labels("y.txt")),
    "labels_meta": Format(write_labels("y.meta"), labels("y.meta")),
    "labels_npy": Format(write_labels("y.npy"), labels("y.npy")),
    "labels_npz": Format(write_labels("y.npz"), labels("y.npz")),
    "labels_parquet": Format(write_labels("y.parquet"), labels("y.parquet")),
    "graph_npz": Format(write_graph("knn.npz"), graph("knn.npz")),
    "graph_npy": Format(write_graph("knn.npy"), graph("knn.npy")),
    "graph_folder": Format(write_graph("knn"), graph("knn")),
    "config": Format(lambda folder: (folder / "config.yaml").write_text(CONFIG), config),
    "state_torch": Format(lambda folder: torch.save(state_dict(), folder / "s.pt"), state("gcn_v", "s.pt")),
    "state_safetensors": Format(lambda folder: (folder / "s.safetensors").write_bytes(save_tensors(state_dict())),
                                state("gcn_v", "s.safetensors")),
    "model_trees": Format(write_trees, model),
    "model_network": Format(write_network, model),
}  # fmt: skip


def mutate(name: str, files: list[Path], random: Random) -> None:
    """Damage a valid example of a format: one of its files."""
    path = files[int(random.integers(len(files)))]
    if len(files) > 1 and random.random() < 0.03:
        path.unlink()
        return
    if len(files) > 1 and random.random() < 0.03:
        path.write_bytes(files[int(random.integers(len(files)))].read_bytes())
        return
    data = path.read_bytes()
    if path.suffix in (".npz", ".pt") and random.random() < 0.6:
        data = _mutate_member(data, random)
    elif path.suffix == ".safetensors" and random.random() < 0.6:
        data = _mutate_tensors(data, random)
    elif _is_text(path) and random.random() < 0.8:
        data = _mutate_text(data, random, _YAML if path.suffix == ".yaml" else _JSON)
    elif path.suffix == ".npy" and random.random() < 0.6:
        data = _mutate_text(data[:128], random, _NUMPY) + data[128:]
    else:
        data = _mutate_bytes(data, random)
    path.write_bytes(data)
    if name.startswith("model_") and random.random() < 0.9:
        _seal(path.parent, path, data)


_EXTREMES = (
    0, 1, -1, 2, 7, 127, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, -(2**31), 2**33, 2**40, 2**53,
    2**62, 2**63 - 1, -(2**63), ROWS - 1, ROWS + 1, DIM - 1, DIM + 1,
)  # fmt: skip
_NUMPY = (b"<f8", b"<f2", b">f4", b"|O", b"|S0", b"<U9", b"|V4", b"<i8", b"|u1", b"<c8", b"True", b"False", b"(", b")",
          b"{", b"'", b",", b"None")  # fmt: skip
_JSON = (b"null", b"true", b"[]", b"{}", b'""', b'"x"', b"NaN", b"-0", b"1e400", b"[[[[", b"}", b'"', b",", b":",
         b'"\\ud800"', b'"../../x"', b'"float64"', b'"int8"', b'"object"', b"\xff", b"9" * 40)  # fmt: skip
_YAML = (b"*graph", b"&graph", b"<<: *graph", b"!!python/object:os.system", b"!!int", b"!!binary", b"!!set", b"[", b"]",
         b"{", b"}", b": ", b"- ", b"\t", b"? ", b"|", b">", b"---\n", b"...\n", b"%YAML 9.9\n", b"null", b"~", b"true",
         b".nan", b".inf", b"-.inf", b"1e400", b"0x", b"2024-99-99", b"'", b'"', b"#", b"\n", b"\xff", b"\xef\xbb\xbf",
         b"preset: config.yaml", b"&a [*a]", b"9" * 5000)  # fmt: skip


def _is_text(path: Path) -> bool:
    return path.suffix in (".json", ".yaml", ".txt", ".meta") or path.name.startswith(".z")


def _mutate_bytes(data: bytes, random: Random) -> bytes:
    """Flip, cut, insert, repeat and splice, near the ends, where headers and footers are, more than between."""
    for _ in range(int(random.integers(1, 4))):
        if not data:
            return bytes(random.integers(0, 256, int(random.integers(0, 20)), np.uint8))
        changed, at = bytearray(data), _place(len(data), random)
        length = int(min(random.integers(1, 33), len(data) - at))
        kind = int(random.integers(8))
        if kind == 0:
            changed[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            changed[at] = int(random.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed = changed[:at]
        elif kind == 4:
            changed[at:at] = bytes(random.integers(0, 256, length, np.uint8))
        elif kind == 5:
            other = _place(len(data), random)
            changed[at : at + length] = data[other : other + length]
        else:
            size = int(random.choice([1, 2, 4, 8]))
            value = int(random.choice(np.array(_EXTREMES, object))) % (1 << 8 * size)
            changed[at : at + size] = value.to_bytes(size, "little")
        data = bytes(changed)
    return data


def _place(length: int, random: Random) -> int:
    kind = random.random()
    if kind < 0.35:
        return int(random.integers(min(length, 256)))
    if kind < 0.7:
        return length - 1 - int(random.integers(min(length, 1024)))
    return int(random.integers(length))


def _mutate_text(data: bytes, random: Random, words: tuple[bytes, ...]) -> bytes:
    """Put other numbers and words in the place of those of a text, or beside them; or damage its bytes."""
    for _ in range(int(random.integers(1, 4))):
        tokens = list(re.finditer(rb"-?\d+(?:\.\d+)?|\w+|[^\w\s]", data))
        if not tokens or random.random() < 0.15:
            data = _mutate_bytes(data, random)
            continue
        numbers = [token for token in tokens if token[0].lstrip(b"-")[:1].isdigit()]
        chosen = numbers if numbers and random.random() < 0.5 else tokens
        token = chosen[int(random.integers(len(chosen)))]
        kind = int(random.integers(5))
        if kind <= 1:
            word = str(int(random.choice(np.array(_EXTREMES, object)))).encode()
        elif kind == 2:
            word = words[int(random.integers(len(words)))]
        elif kind == 3:
            word = tokens[int(random.integers(len(tokens)))][0]
        else:
            word = b""
        first, last = (token.end(),) * 2 if random.random() < 0.2 else token.span()
        data = data[:first] + word + data[last:]
    return data


def _mutate_member(data: bytes, random: Random) -> bytes:
    """Damage one member of a zip file and pack it anew, so that its checksum is right; or its name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen, packed = int(random.integers(len(members))), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, (info, held) in enumerate(members):
            if number == chosen:
                if random.random() < 0.05:
                    continue
                header = info.filename.endswith(".npy") and random.random() < 0.6
                held = _mutate_text(held[:128], random, _NUMPY) + held[128:] if header else _mutate_bytes(held, random)
            archive.writestr(zipfile.ZipInfo(info.filename), held, info.compress_type)
    return packed.getvalue()


def _mutate_tensors(data: bytes, random: Random) -> bytes:
    """Damage the header of a safetensors file, whose length stays true, or one number of its tensors."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], bytearray(data[8 + length :])
    if random.random() < 0.5:
        at = int(random.integers(len(rest) // 2)) * 2
        rest[at : at + 2] = int(random.choice([0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7F80, 60, 300])).to_bytes(2, "little")
    else:
        header = _mutate_text(header, random, (*_JSON, b'"F64"', b'"I16"', b'"BF16"', b'"U8"'))
    return len(header).to_bytes(8, "little") + header + bytes(rest)


def _seal(folder: Path, path: Path, data: bytes) -> None:
    """Let a damaged model's checksums be right, as those of a hostile one are."""
    written = folder / "model.json"
    try:
        tree = json.loads(written.read_text())
        if path.suffix == ".safetensors":
            tree["weights_checksum"] = manifest.bytes_checksum(data)
        tree.pop(CHECKSUM, None)
        written.write_text(json.dumps({**tree, CHECKSUM: tree_checksum(tree)}))
    except (ValueError, TypeError, AttributeError):  # it is no longer a model's
        return
