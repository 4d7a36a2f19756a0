"""What a method gives the flow: the step that scores edges, or clusters at once, and how it trains if it learns.

Each method has a folder here: ``method.py`` says what it is, ``steps.py`` does its work, ``settings.py`` holds its
section of settings and its presets, ``convert.py`` reads released weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from engine.errors import ConfigError, DataError, EngineError
from engine.learning.settings import TrainSettings
from engine.learning.tensors import check_weights
from engine.methods.model_card import MODEL, MODEL_FILE, Model, Nature
from engine.methods.state_dict import Converted, StateDict
from engine.partitions import OWN, Clustered
from engine.partitions.base import OperatingPoint
from engine.partitions.select import Select, Selection
from engine.runs.step import Facts, Step
from engine.sections import Section
from engine.settings import Settings
from engine.steps.aggregate import Aggregate
from engine.steps.copies import Copies
from engine.steps.edges import Scores
from engine.steps.ingest import Rows, Vectors
from engine.steps.knn import Knn, Order, Recall
from engine.steps.labels import OutsideFile
from engine.steps.metric import LearnedMetric

Presets = Mapping[str, Mapping[str, Any]]  # settings by section, by the preset's name after the method's
NO_PRESETS: Presets = {}


@dataclass(frozen=True)
class Graph:
    """A KNN graph and the steps that it is of.

    ``rows``: the source's rows. ``features``: the vectors that were searched, by vertex. ``order``: the vertices'
    numbering, if it is not that of the rows. ``originals``: the vectors as they were given, by row, if ``features`` are
    projected ones; ``metric``: how that was learned, while training. ``prefix`` tells the steps of one graph from those
    of another in a plan. ``committee``: graphs of further sources of the same rows. ``second`` makes a further graph of
    the same rows, in a metric if one is given.
    """

    rows: Rows
    features: Vectors[Any]
    knn: Knn
    order: Order | None = None
    originals: Rows | None = None
    metric: LearnedMetric | None = None
    recall: Recall | None = None
    prefix: str = ""
    committee: tuple[Graph, ...] = ()
    second: Callable[[LearnedMetric | None], Graph] | None = None

    @property
    def num_rows(self) -> int:
        return self.knn.num_rows

    @property
    def dim(self) -> int:
        return self.features.dim

    @property
    def k(self) -> int:
        return self.knn.k


class Scoring(NamedTuple):
    """What gives edges their scores, what else a plan must reach, and the rows that count for no cluster.

    ``opinions``: the step that left what settles more pairs than scores do (``Figures``), and that has read whether the
    data hold two answers (``Levels``).
    """

    score: Scores
    further: tuple[Step[Any] | None, ...] = ()
    copies: Copies | None = None
    opinions: Step[Any] | None = None


class Training(NamedTuple):
    """What leaves weights, what chooses an operating point, and what else a plan must reach."""

    fit: Step[Facts]
    select: Selection
    further: tuple[Step[Any] | None, ...] = ()


class Method:
    """A way to give every edge a score.

    - ``presets``: published settings, by the name after the method's: ``--config star_fc/original``.
    - ``learned``: its scores are probabilities; else they are cosines.
    - ``needs_model``: its runs need a model. ``chooses``: they need none, but training chooses their parameters.
    - ``metric_spaces``: 0 takes vectors as they are. Otherwise training learns a metric and runs project vectors by it.
      With 1, training projects by the same metric; with 2, each half of the identities by the other half's.
    - ``any_dimension``: a model without a metric takes vectors of any dimension.
    - ``partitions``: those that its scores are made for, all if empty; ``own`` if the method clusters by itself.
    - ``min_score``: the least score of a partition, where neither settings nor a model say one.
    - ``takes_committee``: it reads ``cdp.committee``.
    - ``run_sections``: the settings that its runs read beside those of every method; its training also reads
      ``training_sections``.
    - ``learns_in_halves``: training learns from either half of the identities alone. ``learns_in_runs``: every run
      learns from first clusters of its own.
    - ``adapts``: its scores are probabilities of edges, which a run corrects by what opinions without labels say.
    - ``read_facts``: fields of a model's ``Nature`` that its runs cannot do without.
    - ``num_states``: state dicts of another release that ``convert`` takes; 0 if it takes none.
    """

    name: str
    presets: Presets = NO_PRESETS
    learned = False
    needs_model = False
    metric_spaces = 0
    partitions: tuple[str, ...] = ()
    takes_committee = False
    chooses = False
    min_score: float | None = None
    run_sections: tuple[type[Section], ...] = ()
    training_sections: tuple[type[Section], ...] = ()
    learns_in_halves = False
    any_dimension = False
    learns_in_runs = False
    adapts = False
    read_facts: tuple[str, ...] = ()
    num_states = 0

    @property
    def trains(self) -> bool:
        """Whether anything of it is learned, or chosen, from labels."""
        return self.needs_model or self.chooses

    @property
    def clusters_itself(self) -> bool:
        """Whether it gives clusters at once, so that no scored edges are partitioned."""
        return OWN in self.partitions

    def reads(self, name: str, *, training: bool) -> bool:
        """Whether a run, or training, reads a setting, by its dotted name, or a section of them."""
        section = name.partition(".")[0]
        if section == "partition":
            return not self.clusters_itself
        further = self.run_sections + (self.training_sections if training else ())
        return section in ("method", "seed", "ingest", "knn", "score", *(each.name for each in further))

    def holdout(self, settings: Settings) -> float | None:
        """Return the share of identities that training holds out; ``None`` if it holds out none."""
        return settings.train.holdout if TrainSettings in self.training_sections else None

    def committee(self, settings: Settings) -> tuple[str, ...]:
        """Return the places of other vectors of the same rows that the method reads."""
        return ()

    def check(self, settings: Settings) -> None:
        """Refuse what ``settings`` ask for and the method cannot do; raises ``ConfigError``."""
        asked = settings.partition.method
        if self.partitions and not self.clusters_itself and asked not in ("auto", *self.partitions):
            raise ConfigError(f"partition.method {asked}: method {self.name} knows only {', '.join(self.partitions)}")

    def check_model(self, model: Model) -> None:
        """Refuse a model, here on this host, that is not what a training of the method leaves.

        Raises ``DataError`` that names the file and what is wrong with it.
        """
        path = f"{model.folder}/{MODEL_FILE}"
        missing = model.nature.lacks(self.read_facts)
        if missing:
            raise DataError(f"{path}: facts.{missing[0]} is missing, which method {self.name} needs; {MODEL.remedy}")
        own = self.clusters_itself
        points = set(model.operating_points)
        if (model.preferred == OWN) != own or (not own and model.preferred not in points) or (own and points):
            raise DataError(
                f"{path}: prefers the partition {model.preferred} and has operating points for "
                f"{', '.join(sorted(points)) or 'none'}, as no {self.name} model; {MODEL.remedy}"
            )
        try:
            self.check_weights(model)
        except EngineError:
            raise
        except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:  # of a network of such settings
            first = str(error).splitlines()[:3]
            raise DataError(f"{path}: facts.network describes no network: {' '.join(first)}; {MODEL.remedy}") from None

    def check_weights(self, model: Model) -> None:
        """Refuse weights that are not those of the network that the model's facts describe."""
        further = {}
        if model.projects:
            further = {"metric.mean": (model.dim,), "metric.projection": (model.dim, model.dim)}
        check_weights(model.weights, self.networks(model), further)

    def networks(self, model: Model) -> dict[str, Callable[[], nn.Module]]:
        """What builds each network whose weights a model holds, by the prefix of their names."""
        return {}

    def untrained(self, settings: Settings) -> Nature:
        """What a model would be, as far as is known before training: what its weights belong to."""
        return Nature()

    def untrained_model(self, settings: Settings, dim: int, *, learns_metric: bool) -> Model:
        """A model as training leaves one, but for the weights, to plan its runs with."""
        nature = self.untrained(settings)
        if learns_metric and self.metric_spaces:
            nature = nature.model_copy(update={"shrinkage": 1.0, "second_graph": self.metric_spaces == 2})
        points = {"components": OperatingPoint(min_score=0.5, min_intimacy=0.5)}
        return Model("", self.name, dim, settings.knn.k, "", points, "components", nature)

    def convert(self, *states: StateDict) -> Converted:
        """Make a model of the ``num_states`` state dicts of another release."""
        raise NotImplementedError

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """The step that gives the graph's edges their scores."""
        raise NotImplementedError

    def cluster(self, graph: Graph, settings: Settings, model: Model | None, score: Scores) -> Clustered | None:
        """The step that clusters, of a method that does so by itself; ``score``: its edges."""
        return None

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """The step that fits, and the one that chooses an operating point."""
        raise ConfigError(f"method {self.name} learns nothing from labels; asterism train --help lists those that do")


def which_edges(settings: Settings, model: Model | None = None) -> dict[str, Any]:
    """Fields of ``Scores`` that say which edges are scored: as set, else as the model stores."""
    floor = settings.score.min_similarity
    if floor is None:
        floor = model.nature.min_similarity if model else 0.0
    return {"min_similarity": floor, "max_edges_per_vertex": settings.score.max_edges_per_vertex}


def aggregate(graph: Graph, k: int | None = None) -> Aggregate:
    """The step of Âx, which every method with a graph convolution reads; ``k``: of so many neighbours alone."""
    return Aggregate(prefix=graph.prefix, num_rows=graph.num_rows, features=graph.features, knn=graph.knn, k=k)


def select(
    graph: Graph,
    settings: Settings,
    labels: OutsideFile,
    score: Scores,
    holdout: float,
    partitions: tuple[str, ...] = (),
) -> Select:
    """The step that chooses thresholds on the share ``holdout`` of identities; of all partitions if none is named."""
    return Select(
        score=score,
        order=graph.order,
        seed=settings.seed,
        holdout=holdout,
        step=settings.partition.step,
        partitions=partitions,
        **labels.given(),
    )
