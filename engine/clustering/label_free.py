"""The constants that decide for a run without labels, in one table: value, meaning, evidence.

The evidence of a group is named above it: a page of ``docs/decisions``, a benchmark or a test.
"""

from __future__ import annotations

# Which method runs. Evidence: docs/decisions/0016; benchmarks/accuracy.py.
SELF_TRAINED_ROWS = 2_000_000  # on more, cosine takes an hour less, and no opinions correct a model

# Where the cosine graph is cut for first clusters. Evidence: docs/decisions/0016.
STEP_BANDWIDTH = 0.03  # similarity below the nearest neighbour's at which a step of the walk is e times less likely
STEP_REACH = 8 * STEP_BANDWIDTH  # the walk never steps to a neighbour that is further below the nearest one
CODELENGTH_RISE = 0.01  # share of the least codelength that a higher threshold may cost
LEAST_SCORE = 0.5  # least probability of an edge that is kept on the word of a model of other data

# Few and large clusters are cut where they hang together. Evidence: docs/decisions/0018.
FEW_CLUSTERS = 50  # fewer clusters than this are few
LARGE_CLUSTERS = 20  # clusters of so many rows on average are large
NOISE_SHARES = (0.1, 0.9)  # quantiles of the similarity of the rows' nearest neighbours, which are compared
NOISE_RATIO = 2  # the data hold noise if the upper quantile is more than so many times the lower

# Noise stays apart. Evidence: docs/decisions/0017; benchmarks/alone.py.
CHANCE_NEIGHBORS = 0.001  # unrelated vectors expected nearer to a row than what counts as nearer than chance
FEW_NEAR = 1 / 3  # if fewer rows have a neighbour nearer than chance, most other rows are of no cluster
CROWD = 16  # neighbours that make a crowd, where chance has CROWD / CROWD_RATIO as near
CROWD_RATIO = 4
FEW_CROWDED = 3 / 4  # if more rows lie in a crowd, the rule is not used: density alone shows large identities
COMMON_DIRECTION = 0.1  # median cosine of random pairs, from which the vectors share a direction
FEWEST_DIMENSIONS = 12  # in fewer dimensions unrelated rows lie too close to be told from related ones
DRAWN_ROWS, DRAWN_OTHERS = 4_096, 64  # rows that are drawn, and other rows that each is compared with
COSINE_ERROR = 0.01  # most that a graph's similarities may differ from the cosines of the vectors

# Whether the first clusters teach anything. Evidence: docs/decisions/0031; tests/quality/test_self_trained.py.
LEAST_CLUSTERS = 50  # clusters of two rows and more that are needed
LEAST_EXPLAINED = 0.25  # share of the held-out clusters' entropy that the fitted trees must explain
BELIEVED = 0.25  # share of the edges that evidence holds apart and codelength joins, from which trees learn
LEAST_TRUST = 1.0  # mean evidence of mates, in nats: with less, evidence may miss clusters without a gap
TRANSITIVE = 0.5  # share of walks of two steps among K neighbours that stay, from which there are such clusters
LOCAL_RANK = 7  # neighbour whose distance is a row's own scale; the value of the paper
MANY_COPIES = 0.25  # share of the rows
LESS_TRUST = 0.75  # of that with near-copies (docs/decisions/0032)
NEAR_COPY = 0.1  # rows are copies if they are nearer than this share of the distance to the nearest stranger
SHALLOW = {"num_trees": 60, "levels": 4, "patience": 15}  # larger trees learn the first clusters' mistakes

# How far opinions correct the odds of a scorer. Evidence: docs/decisions/0034 and 0037.
NOTHING_FOUND = 0.1  # share of the edges that the other opinion joins, below which one could not tell
ODDS_IN_DOUBT = 1.5  # log-odds that opinions may be wrong by, so that a correction below is none

# From which edges the map equation makes clusters. Evidence: docs/decisions/0020.
LEAST_PROBABILITY = 0.5  # unless a model or a setting says otherwise
LEAST_COSINE = 0.4  # settled on labelled sets, with weights of bandwidth 0.1; too low for tiny clusters
