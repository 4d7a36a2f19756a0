"""Questions: the pair of most worth comes first, whatever the blocks of the edges, and no answered pair comes again."""

from __future__ import annotations

import numpy as np
import pytest

from engine.clustering.forest import MaximumForest
from engine.evaluation.explain import ClusteredEdges
from engine.evaluation.question_evidence import add_merges, cut_tree, draw_pairs, least_of, weigh_cuts, weigh_merges
from engine.evaluation.questions import MERGE, MUST, SAMPLE, SPLIT, Questioner, QuestionTable

NONE = np.empty((0, 2), np.int64)
# Cluster 0: rows 0 to 3 and 4 to 6, joined by two poor edges. Cluster 1: rows 7 and 8, near row 6. Row 9: no cluster.
EDGES = [
    *((a, b, 0.9) for a in range(4) for b in range(a)),
    *((a, b, 0.8) for a in range(4, 7) for b in range(4, a)),
    (3, 4, 0.4), (2, 5, 0.2), (7, 8, 0.95), (6, 7, 0.3), (6, 8, 0.5), (0, 9, 0.9),
]  # fmt: skip
LABELS, NEAREST = np.array([0] * 7 + [1, 1, -1]), np.array([1, 0])


def ask(
    must: np.ndarray = NONE,
    cannot: np.ndarray = NONE,
    block: int = 100,
    moves: dict[int, tuple[float, float]] | None = None,
    start: int = 0,
) -> QuestionTable:
    ends = np.array([edge[:2] for edge in EDGES], np.int32)
    scores = np.array([edge[2] for edge in EDGES], np.float32)
    clusters = LABELS.astype(np.int32)
    every = ends[:, 0].copy(), ends[:, 1].copy(), scores, scores
    edges = ClusteredEdges(*every, clusters[ends[:, 0]], clusters[ends[:, 1]])
    inside = (edges.source_clusters == edges.target_clusters) & (edges.source_clusters >= 0)
    forest = MaximumForest(10)
    forest.add(must[:, 0].astype(np.int32), must[:, 1].astype(np.int32), np.full(len(must), MUST))
    forest.add(*(column[inside] for column in every[:3]))
    tree, sure = cut_tree(10, *forest.edges()), np.ones(len(scores), np.float32)
    questioner = Questioner(clusters, NEAREST, must, cannot, tree, moves)
    merges, drawn = [], []
    for a in range(0, len(scores), block):
        each = ClusteredEdges(*(column[a : a + block] for column in edges))
        sures = sure[a : a + block], sure[a : a + block]
        questioner.add_cuts(weigh_cuts(tree, each, start, start + 3))
        merges.append(weigh_merges(each, NEAREST, *sures))
        drawn.append(draw_pairs(each, each.sources, each.targets, 4))
    return questioner.questions(add_merges(merges), least_of(drawn, 4), 10)


def test_the_weakest_place_and_the_nearest_other_are_asked_about() -> None:
    table = ask()
    assert table.kind.tolist() == [MERGE, SPLIT, SPLIT, SAMPLE, SAMPLE, SAMPLE, SAMPLE]
    assert table.rows[:2].tolist() == [[6, 8], [3, 4]]
    np.testing.assert_allclose(table.chance[:2], [0.4, 0.3], rtol=1e-6)  # mean of the edges between, of those across
    assert table.pairs[:2].tolist() == [14, 12]
    np.testing.assert_allclose(table.worth[:2], [1.4 * 0.4 * 14, 0.6 * 0.7 * 12], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_blocks_and_ranges_change_nothing(block: int, start: int) -> None:
    one, other = ask(), ask(block=block, start=start)
    for name in QuestionTable.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_answers_move_on_to_the_next_question() -> None:
    table = ask(must=np.array([[3, 4]]), cannot=np.array([[8, 6]]))
    assert MERGE not in table.kind
    split = table.rows[(table.kind == SPLIT)].tolist()
    assert [3, 4] not in split
    assert len(split) == 2
    assert ask(moves={MERGE: (1.0, -4.0)}).kind[0] == SPLIT
