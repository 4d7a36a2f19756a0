"""STAR-FC trained hierarchically (its extended, journal version): every vertex takes its own scale of neighbourhood.

What it fits: STAR-FC's convolution, shared by graphs of five neighbourhood sizes; shares that mix the smaller two and
the larger two; and a transformer block that chooses one of the three scales for each vertex
(``HierarchicalStarFC``). How it scores and partitions: as ``star_fc``, whose steps these are,
from the vertices' codes at their scales.

Deviations beside those of ``star_fc``, each with its reason. Sizes are shares of ``knn.k`` (``hierarchy.scales``), so
that any K will do; the published offsets of 5 to 30 around the middle, chosen in training, are here two fixed ones that
are mixed, so that each Âx is computed once. The five sizes serve in use as they do in training, mixed by the learned
shares, where the published test takes three. The pairs are mixed before the convolution, not after. The entropy is
that of the choices of a minibatch taken together, which is even though every vertex's own be sure. Degrees and
neighbourhoods are closed in the adaptive intimacy threshold of ``star_fc_hierarchical/original``. Steps, learning rate
and lambda are ours, as the released code does not run.
"""

from __future__ import annotations

from engine.learning.settings import MetricSettings, SamplingSettings, TrainSettings
from engine.methods.base import Graph, aggregate
from engine.methods.star_fc.method import StarFc
from engine.methods.star_fc.settings import StarFcSettings
from engine.methods.star_fc_hierarchical.settings import PRESETS, HierarchySettings
from engine.settings import Settings
from engine.steps.aggregate import Aggregate


class StarFcHierarchical(StarFc):
    """STAR-FC, with Âx of smaller neighbourhoods before them."""

    name = "star_fc_hierarchical"
    presets = PRESETS
    num_states = 0
    training_sections = (SamplingSettings, HierarchySettings, TrainSettings, MetricSettings)

    def network(self, settings: Settings) -> StarFcSettings:
        """The network to train."""
        return settings.of(HierarchySettings)

    def aggregates(self, graph: Graph, network: StarFcSettings) -> list[Aggregate]:
        """The steps of Âx that ``network`` takes, ascending; of few neighbours several scales may be one."""
        assert isinstance(network, HierarchySettings)
        sizes = [max(1, round(share * graph.k)) for share in network.scales]
        made = {k: aggregate(graph, k if k < graph.k else None) for k in (*sizes, graph.k)}
        return [made[k] for k in (*sizes, graph.k)]

    def encoding_cost(self, graph: Graph, network: StarFcSettings) -> tuple[int, float]:
        """Bytes and seconds that encoding a vertex takes beyond one convolution's."""
        dim, hidden = graph.dim, network.hidden
        return 4 * (12 * dim + 40 * hidden), 2 * hidden * (4 * dim + 18 * hidden) / 5e10
