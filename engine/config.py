"""Settings: one pydantic model per stage, read from YAML and ``--set a.b=c``, with a stable hash.

Unknown names are errors. What cannot change a result (threads, memory, device) is in ``commands.resources``, and stays
out of every fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, field_validator

from engine.errors import ConfigError
from engine.presets import PRESETS
from engine.sections import MAX_INTEGER, Cosine, Section, Share, TwoOrMore, Width
from engine.storage.yaml_files import SHOWN, parse_yaml, read_yaml

MethodName = Literal[
    "auto",
    "star_fc",
    "star_fc_hierarchical",
    "structural",
    "self_trained",
    "cosine",
    "gcn_v",
    "gcn_e",
    "l_gcn",
    "gcn_d",
    "gcn_s",
    "cdp",
    "cdp_mediator",
    "fc_es",
    "fc_eser",
    "kmeans",
    "minibatch_kmeans",
    "spectral",
    "ward",
    "average_linkage",
    "single_linkage",
    "dbscan",
    "knn_dbscan",
    "hdbscan",
    "mean_shift",
    "chinese_whispers",
    "rank_order",
]


PartitionName = Literal["components", "propagation", "density_peaks", "map_equation"]


class IngestConfig(Section):
    """Reading and normalising the source vectors."""

    dtype: Literal["float16", "float32"] = Field("float16", description="stored type of the unit vectors")
    zero_vectors: Literal["error", "drop", "singleton"] = Field(
        "error", description="rows of norm 0: refuse, leave out (label -1), or give each a cluster of its own"
    )


class KnnConfig(Section):
    """The global KNN graph."""

    k: int = Field(80, ge=1, le=1024, description="neighbours per vertex, itself not counted")
    mode: Literal["auto", "exact", "partition", "ivf"] = Field(
        "auto", description="auto: exact up to exact_rows, then partition"
    )
    exact_rows: int = Field(50_000, ge=0, description="largest N that auto searches exactly")
    recall: float = Field(
        0.99, gt=0, le=1, description="partition: passes are added until this share of neighbours above 0.5 is found"
    )
    max_passes: int = Field(0, ge=0, le=9, description="partition: passes at most; 0: 4, and 3 beyond 4,194,304 rows")
    num_cells: int = Field(
        0, ge=0, description="cells; 0: partition about N / 64, at most 1,048,576; ivf about 1.3 sqrt(N)"
    )
    num_probes: int = Field(0, ge=0, description="nearest cells searched per query; 0: partition 4, ivf 32")
    train_rows_per_cell: int = Field(
        0, ge=0, description="rows sampled per cell to train the centroids; 0: partition 8, ivf 64"
    )
    recall_samples: int = Field(
        1_000, ge=0, description="rows compared against exact search; 0: no estimate, and all passes are made"
    )


class SamplingConfig(Section):
    """Structure-preserved subgraph sampling (SPSS)."""

    num_seeds: int = Field(2, ge=1, description="M: seed clusters of one subgraph")
    num_nearest: int = Field(750, ge=1, description="N: nearest clusters taken with each seed")
    cluster_share: float = Field(0.87, gt=0, le=1, description="K1 as a share of the clusters gathered")
    vertex_share: float = Field(0.9, gt=0, le=1, description="K2: share of each cluster's vertices kept")
    far_share: float = Field(0.1, ge=0, le=1, description="random far clusters added, as a share of those kept")
    max_vertices: int = Field(70_000, ge=2, description="clusters are dropped at random until it fits")
    max_per_identity: int = Field(0, ge=0, description="rows of one identity in a subgraph at most; 0 = all")
    identity_balance: float = Field(0.5, ge=0, le=1, description="0: every edge counts alike; 1: every identity")
    positive_share: float = Field(0.5, gt=0, lt=1, description="share of same-identity edges in a minibatch")


class ModelConfig(Section):
    """The STAR-FC network."""

    head: Literal["interaction", "concat"] = Field("interaction", description="edge head; concat = published")
    hidden: int = Field(128, ge=1, description="width of the graph convolution's output")
    code: int = Field(64, ge=1, description="interaction head: width each vertex is projected to")
    head_hidden: int = Field(128, ge=1, description="width of the edge head's hidden layers")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout in the edge head while training")


class HierarchyConfig(ModelConfig):
    """The network of ``star_fc_hierarchical``."""

    scales: tuple[Share, Share, Share, Share] = Field(
        (2 / 3, 3 / 4, 5 / 6, 11 / 12),
        description="smaller neighbourhoods, as shares of knn.k: two mixed into one, one alone, and one mixed with "
        "all of knn.k; published 80, 90, 100 and 110 of 120",
    )
    entropy_weight: float = Field(
        0.1, ge=0, description="lambda: weight of the bits by which the chosen scales fall short of an even choice"
    )

    @field_validator("scales")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(value):
            raise ValueError("expected ascending shares")
        return value

    @field_validator("hidden")
    @classmethod
    def _of_four_heads(cls, value: int) -> int:
        if value % 4:
            raise ValueError("expected a multiple of 4, as the scales attend to each other with four heads")
        return value


class TrainConfig(Section):
    """Training and the choice of thresholds on held-out identities."""

    max_steps: int = Field(600, ge=1, description="optimiser steps at most")
    edges_per_step: int = Field(4_096, ge=2, description="edges of one minibatch")
    steps_per_subgraph: int = Field(20, ge=1, description="minibatches drawn from each sampled subgraph")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd = published")
    learning_rate: float = Field(2e-3, gt=0, description="initial learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay")
    milestones: tuple[Share, ...] = Field(
        (0.5, 0.8, 0.9), description="shares of max_steps where the rate falls tenfold"
    )
    holdout: float = Field(0.2, gt=0, lt=1, description="share of identities held out for stopping and thresholds")
    evaluate_every: int = Field(50, ge=1, description="steps between checkpoints and held-out evaluations")
    patience: int = Field(6, ge=1, description="evaluations without improvement before training stops")


class GcnVConfig(Section):
    """GCN-V's network, which ``train`` trains."""

    hidden: int = Field(512, ge=1, description="width of the graph convolution's output")
    vertices_per_step: int = Field(4_096, ge=0, description="vertices of one minibatch; 0 = all, as published")


class GcnEConfig(Section):
    """GCN-E's network over the candidates of a vertex, which ``train`` trains after GCN-V's."""

    inputs: Literal["vectors", "embedded"] = Field(
        "vectors", description="what candidates are told apart by; embedded: GCN-V's embeddings, as published"
    )
    widths: tuple[Width, ...] = Field((512, 512, 256, 256), min_length=1, description="widths of the convolutions")
    hidden: int = Field(256, ge=1, description="width of the classifier's hidden layer")
    active: int = Field(10, ge=1, description="candidates are joined if either lists the other among its first so many")
    skip_share: float = Field(
        0.8, ge=0, lt=1, description="share of the vertices, of lowest confidence, that link to their nearest candidate"
    )
    pivots_per_step: int = Field(32, ge=1, description="vertices of one minibatch")


class LGcnConfig(Section):
    """L-GCN's network over pivot subgraphs, which ``train`` trains."""

    widths: tuple[Width, ...] = Field(
        (256, 256, 128, 128), min_length=1, description="widths of the convolutions; published twice as wide"
    )
    hidden: int = Field(256, ge=1, description="width of the classifier's hidden layer")
    second_hop: int = Field(5, ge=0, description="neighbours of each neighbour that join a pivot's subgraph")
    active: int = Field(5, ge=1, description="members are joined if either lists the other among its first so many")
    pivots_per_step: int = Field(16, ge=1, description="pivots of one minibatch")


class GcnDConfig(Section):
    """GCN-D's and GCN-S's cluster proposals and networks."""

    thresholds: tuple[Cosine, ...] = Field(
        (0.35, 0.45, 0.55, 0.65, 0.75), min_length=1, description="least similarities of super-vertices"
    )
    max_size: int = Field(300, ge=2, description="vertices of a proposal at most")
    min_size: int = Field(2, ge=2, description="vertices of a proposal at least; published 3")
    unions: tuple[tuple[TwoOrMore, TwoOrMore], ...] = Field(
        (),
        description="pairs (k, most): super-vertices that are among each other's k nearest, itself counted, are "
        "joined, most of them at most, and each union is a proposal too",
    )
    union_thresholds: tuple[Cosine, ...] = Field(
        (), description="least similarities of the super-vertices that are joined; none: those of thresholds"
    )
    union_similarity: float = Field(0.4, ge=-1, le=1, description="least cosine of two means that are joined")
    union_max_size: int = Field(500, ge=2, description="vertices of a union at most")
    widths: tuple[Width, ...] = Field((512, 64), min_length=1, description="widths of the convolutions")
    proposals_per_step: int = Field(32, ge=1, description="proposals of one minibatch")
    num_seeds: int = Field(3, ge=1, description="gcn_s: seeds tried in each proposal")
    least_iop: float = Field(0.1, ge=0, le=1, description="gcn_s: proposals of predicted IoP from here on are cut")
    most_iop: float = Field(0.9, ge=0, le=1, description="gcn_s: and up to here")


class CdpConfig(Section):
    """CDP's committee."""

    committee: tuple[str, ...] = Field((), description="other vectors of the same rows, in any format of a source")
    accept: int = Field(1, ge=0, description="vote: members that must list a pair too; at most all of them")

    @field_validator("committee", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("committee")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(Path(path).absolute()) for path in value)


class FcEsConfig(Section):
    """FC-ES's walks, and what FC-ESER takes back."""

    neighbors: int = Field(
        0, ge=0, le=80, description="nearest neighbours of each row that are read; 0: as training chose, else knn.k"
    )
    delta: float = Field(0.12, ge=0, le=1, description="fc_eser: least NEP of an edge that is taken back")
    eta: float = Field(0.6, ge=0, le=1, description="fc_eser: least probability of an edge that is taken back")


class BaselineConfig(Section):
    """Parameters of the baselines; ``None`` takes those that training chose."""

    num_clusters: int | None = Field(None, ge=1, description="k-means and spectral clustering: clusters to make")
    distance: float | None = Field(
        None,
        gt=0,
        description="1 - cosine up to which rows are joined, density is counted or a tree is cut; "
        "rank_order: the rank distance",
    )
    min_rows: int | None = Field(None, ge=1, description="dbscan: rows of a dense place; hdbscan: of a cluster")
    selection: Literal["eom", "leaf"] | None = Field(None, description="hdbscan: excess of mass, or leaves")


class TreesConfig(Section):
    """The structural method's boosted trees."""

    num_trees: int = Field(200, ge=1, description="trees of each of the three fits at most")
    levels: int = Field(6, ge=1, le=8, description="splits from the root to a leaf")
    rate: float = Field(0.1, gt=0, le=1, description="step of each tree")
    l2: float = Field(2.0, ge=0, description="weight added to each leaf's curvature")
    min_weight: float = Field(30.0, ge=0, description="edges in doubt that a leaf must hold")
    input_share: float = Field(0.6, gt=0, le=1, description="share of the inputs offered to each tree")
    patience: int = Field(25, ge=1, description="trees without a lower held-out loss before a fit stops")
    max_edges: int = Field(400_000, ge=1_000, description="edges of each fit at most")
    identity_balance: float = Field(
        0.5, ge=0, le=1, description="0: every edge is drawn alike; 1: weighed by the sizes of both identities"
    )
    holdout: float = Field(0.2, gt=0, lt=1, description="share of identities held out for stopping and thresholds")
    doubts: float | None = Field(
        None,
        ge=-20,
        le=20,
        description="self_trained: how many times the fitted odds are halved; None: as its first clusters suggest",
    )


class MetricConfig(Section):
    """The metric learned from labels, or from first clusters, in which a graph of training and runs is built."""

    learn: Literal["auto", "none"] = Field(
        "auto",
        description="auto: by methods that are better for it; none: vectors stay as they are, and a structural "
        "model takes those of any dimension",
    )
    second_graph_rows: int = Field(
        200_000,
        ge=0,
        description="structural, self_trained: up to so many rows, of a training and of a run, edges "
        "are scored in two graphs, of the vectors as they are and in the metric, and both scores count",
    )


class ScoreConfig(Section):
    """Which edges are scored.

    Structural inputs come from the whole graph, so an edge's score does not depend on which others are scored. Node
    intimacy does: it counts the neighbours among edges that are scored and survive, so a floor below which next to
    none survives leaves it as it is, and a cap lowers it (measured at part1: 80 to 60 edges cost 0.6 of pairwise F).
    """

    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="edges below this cosine are never scored; None: what the model stores, else 0"
    )
    max_edges_per_vertex: int = Field(
        0, ge=0, description="M: an edge is scored if it is among the nearest M of either end; 0 = all"
    )


class PartitionConfig(Section):
    """From scored edges to clusters. ``None`` takes the operating point stored with the model."""

    method: Literal["auto"] | PartitionName = Field(
        "auto",
        description="components: score and intimacy pruning, then union-find; propagation: size-capped; "
        "density_peaks: each row joins its best neighbour among denser ones; map_equation: modules in which a walk "
        "along the scored edges stays longest",
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="tau 1: edges of lower score are pruned")
    min_intimacy: Annotated[float, Field(ge=0, le=1)] | Literal["adaptive"] | None = Field(
        None,
        description="tau 2: edges of lower node intimacy are pruned; adaptive: 0.65 to 0.77, by their ends' degrees",
    )
    max_size: int | None = Field(None, ge=1, description="propagation: larger components retry at a higher threshold")
    step: float = Field(0.05, ge=0.001, lt=1, description="propagation: th <- th + (1 - th) * step")
    weight: Literal["auto", "score", "log_odds", "exponential"] = Field(
        "auto",
        description="map_equation: an edge's weight: its score s, ln(s / (1 - s)), exp((s - 1) / bandwidth); "
        "auto: log_odds for learned scores, exponential for cosines",
    )
    precision_bias: float = Field(
        0.0,
        ge=-20,
        le=20,
        description="how many times the odds that an edge is right must double before it counts as "
        "it does at 0: above 0 fewer wrong merges, below 0 fewer splits",
    )
    curve_rows: int = Field(
        50_000,
        ge=0,
        description="the report shows what other precision biases would give up to this many rows; that "
        "takes the partition nine times over",
    )
    union_find_ranges: int = Field(
        0,
        ge=0,
        description="components: ranges of vertices whose parents are held apart, with ray by a process each; "
        "1: all are held together; 0: a range for every 268,435,456 vertices; labels are the same bytes for any number",
    )
    bandwidth: float = Field(0.1, gt=0, description="map_equation: score that makes an exponential weight e times less")


class Settings(Section):
    """Everything that can change a result.

    ``named``: those set by name for one piece of work, which it must read; a file or preset may be for several.
    """

    _named: frozenset[str] = PrivateAttr(default=frozenset())
    method: MethodName = Field(
        "auto",
        description="auto: the model's; without one self_trained where N is neither small nor very large and "
        "no partition.min_score is set, else cosine; training: star_fc if settings of it are set or rows are many, "
        "else structural",
    )
    seed: int = Field(0, ge=0, le=MAX_INTEGER, description="seeds sampling, training and k-means")
    ingest: IngestConfig = IngestConfig()
    knn: KnnConfig = KnnConfig()
    score: ScoreConfig = ScoreConfig()
    partition: PartitionConfig = PartitionConfig()
    sampling: SamplingConfig = SamplingConfig()
    model: ModelConfig = ModelConfig()
    hierarchy: HierarchyConfig = HierarchyConfig()
    train: TrainConfig = TrainConfig()
    gcn_v: GcnVConfig = GcnVConfig()
    gcn_e: GcnEConfig = GcnEConfig()
    l_gcn: LGcnConfig = LGcnConfig()
    gcn_d: GcnDConfig = GcnDConfig()
    cdp: CdpConfig = CdpConfig()
    fc_es: FcEsConfig = FcEsConfig()
    baseline: BaselineConfig = BaselineConfig()
    trees: TreesConfig = TreesConfig()
    metric: MetricConfig = MetricConfig()

    @property
    def named(self) -> frozenset[str]:
        return self._named

    def with_k(self, k: int) -> Settings:
        """The same settings with another ``knn.k``."""
        return self.model_copy(update={"knn": self.knn.model_copy(update={"k": k})})


def load_settings(
    config: str | Path | None = None, overrides: list[str] | dict[str, Any] | None = None, **top: Any
) -> Settings:
    """Build settings from a preset name or YAML file, then overrides, then top-level values that are not ``None``.

    ``overrides``: ``["knn.k=40", ...]`` (values parsed as YAML) or ``{"knn.k": 40, "knn": {"k": 40}}``.
    A section ``resources`` of the file is for ``commands.resources.load_resources``.
    Raises ``ConfigError`` naming the unknown or malformed setting.
    """
    tree = read_config(config)
    tree.pop("resources", None)
    pairs = overrides.items() if isinstance(overrides, dict) else parse_overrides(overrides).items()
    named = [*pairs, *((name, value) for name, value in top.items() if value is not None)]
    for name, value in named:
        _assign(tree, name, value)
    settings = read_settings(tree)
    settings._named = frozenset(str(name) for name, _ in named)
    return settings


def read_settings(tree: Mapping[str, Any]) -> Settings:
    """Settings of a mapping by section; raises ``ConfigError`` naming the unknown or malformed one."""
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(word_errors(error, Settings)) from None


def parse_overrides(overrides: list[str] | None) -> dict[str, Any]:
    """Read ``["knn.k=40", ...]`` into names and values, which are YAML; the last of a name counts."""
    return dict(_split_override(text) for text in overrides or [])


def read_config(config: str | Path | None, named_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The settings of a preset or file, over those of the preset it names; ``named_by``: the files that led here."""
    if config is None:
        return {}
    if str(config) in PRESETS:
        return json.loads(json.dumps(PRESETS[str(config)]))
    path = Path(config)
    if path.absolute() in named_by:
        raise ConfigError(f"{path}: its preset leads back to itself, by way of {len(named_by)} file(s)")
    tree = read_yaml(path, f"configuration, nor one of {', '.join(sorted(PRESETS))}")
    preset = tree.pop("preset", None)
    if not isinstance(preset, str | None):
        raise ConfigError(f"{path}: preset: expected a name or a file, got {str(preset)[:SHOWN]}")
    base = read_config(preset, (*named_by, path.absolute()))
    for name, value in tree.items():
        _assign(base, name, value)
    return base


def _split_override(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set takes name=value, for example knn.k=40; got {text!r}")
    return name.strip(), parse_yaml(value, f"--set {name}: {value[:SHOWN]!r}")


def _assign(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, leaf = str(name).split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {name}: {parent} is a value, not a section")
    if isinstance(value, dict) and isinstance(tree.get(leaf), dict):
        for key, item in value.items():
            _assign(tree[leaf], key, item)
    else:
        tree[leaf] = value


def word_errors(error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name}; known here: {', '.join(_known(item['loc'], model))}")
        else:
            lines.append(
                f"setting {name}: {item['msg'].removeprefix('Value error, ')}, got {repr(item['input'])[:SHOWN]}"
            )
    return "; ".join(lines)


def _known(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return sorted(model.model_fields)
