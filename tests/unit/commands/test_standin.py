"""Stand-in data: same rows however cut, the recipe's proportions, and a difficulty that does not drift."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clustering.propagation import propagate
from engine.clustering.union_find import component_roots
from engine.commands import standin as synth
from engine.commands.standin import DIM, TILE_ROWS, synthesize
from engine.commands.standin_files import write_standin
from engine.errors import ConfigError
from engine.evaluation.metrics import evaluate_labels
from engine.graph.adjacency import undirected_edges
from engine.graph.knn import exact_neighbors


@pytest.fixture(scope="module")
def standin():
    return synthesize(100, seed=3)


@pytest.fixture(scope="module")
def whole(standin):
    return standin.rows(0, standin.num_rows)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_rows_are_the_same_bytes_for_any_range_and_threads(standin, whole, data):
    start = data.draw(st.integers(0, standin.num_rows))
    stop = data.draw(st.integers(start, standin.num_rows))
    features_ND, labels_N = standin.rows(start, stop, threads=data.draw(st.integers(1, 3)))
    assert features_ND.tobytes() == whole[0][start:stop].tobytes()
    assert labels_N.tobytes() == whole[1][start:stop].tobytes()


@pytest.mark.parametrize("block_rows", [700, TILE_ROWS, 3 * TILE_ROWS + 1, 1 << 30])
def test_blocks_cover_all_rows_in_order(standin, whole, block_rows):
    blocks = list(standin.blocks(block_rows, threads=2))
    assert [len(labels_N) for _, labels_N in blocks[:-1]] == [block_rows] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate([features_ND for features_ND, _ in blocks]), whole[0])
    assert np.array_equal(np.concatenate([labels_N for _, labels_N in blocks]), whole[1])


def test_a_second_call_and_other_threads_draw_the_same_identities(standin):
    again = synthesize(100, seed=3, threads=3)
    for name in ("identities", "labels", "noise", "first_modes", "mode_ends", "modes"):
        assert getattr(again, name).tobytes() == getattr(standin, name).tobytes(), name


def test_rows_are_unit_float32_with_int64_labels(standin, whole):
    features_ND, labels_N = whole
    assert features_ND.dtype == np.float32
    assert features_ND.shape == (standin.num_rows, DIM)
    assert labels_N.dtype == np.int64
    assert labels_N.shape == (standin.num_rows,)
    np.testing.assert_allclose(np.linalg.norm(features_ND, axis=1), 1, atol=1e-6)


def test_one_percent_of_rows_exchange_labels(standin):
    changed = standin.identities != standin.labels
    assert 0.006 < changed.mean() <= 0.01
    assert np.array_equal(np.sort(standin.identities), np.sort(standin.labels))


def test_class_sizes_are_lognormal_and_at_least_two():
    sizes_I = np.bincount(synthesize(1_000, seed=5).identities)
    assert len(sizes_I) == 1_000
    assert sizes_I.min() >= 2
    assert sizes_I.mean() == pytest.approx(68, rel=0.1)
    assert np.log(sizes_I).std() == pytest.approx(0.7, abs=0.06)


def test_modes_number_four_on_average_and_are_chosen_by_weight(standin):
    counts_I = np.diff(synthesize(1_000, seed=5).first_modes)
    assert counts_I.min() == 1
    assert counts_I.mean() == pytest.approx(4, abs=0.25)
    ends = standin.mode_ends
    np.testing.assert_allclose(ends[standin.first_modes[1:] - 1], np.arange(1, 101), atol=1e-9)
    assert (np.diff(ends) > 0).all()


def test_one_percent_of_identities_nearly_double_another():
    centres_ID = synth._draw_centres(np.random.default_rng(0), 1_000)
    cosines_II = np.triu(centres_ID @ centres_ID.T, 1)
    close = np.count_nonzero(np.abs(cosines_II - 1 / np.hypot(1, 0.3)) < 0.03)
    assert 10 <= close <= 20


def test_images_lie_nearer_their_own_identity_than_others(standin, whole):
    features_ND = whole[0][:2_000]
    cosines_NN = features_ND @ features_ND.T
    same_NN = standin.identities[:2_000, None] == standin.identities[:2_000]
    np.fill_diagonal(same_NN, False)
    others_NN = ~same_NN
    np.fill_diagonal(others_NN, False)
    assert cosines_NN[same_NN].mean() > 0.4
    assert abs(cosines_NN[others_NN].mean()) < 0.1


def test_seeds_share_rotations_and_junk_but_no_identity(standin, whole):
    other = synthesize(100, seed=4)
    features_ND, _ = other.rows(0, 2_000)
    assert np.max(features_ND @ whole[0][:2_000].T) < 0.9
    np.testing.assert_allclose(synth._junk(24)[:8], synth._junk(8), atol=1e-6)
    assert (synth._num_junk(1_000), synth._num_junk(4_000)) == (24, 48)


def test_direction_spectra_decay_with_rank_and_are_rotated():
    scales_D = np.linalg.norm(synth._noise_basis(), axis=1)
    assert np.mean(scales_D**2) == pytest.approx(1, abs=1e-5)
    assert scales_D[99] / scales_D[0] == pytest.approx(100**-0.4, rel=1e-5)
    unit_DD = synth._noise_basis() / scales_D[:, None]
    np.testing.assert_allclose(unit_DD @ unit_DD.T, np.eye(DIM), atol=1e-5)
    other_DD = synth._centre_basis() / np.linalg.norm(synth._centre_basis(), axis=1, keepdims=True)
    assert np.abs(unit_DD @ other_DD.T).max() < 0.5


def test_difficulty_does_not_drift():
    """Measured when the generator met its calibration; its own benchmark is what says that it still does."""
    standin = synthesize(150, seed=1)
    features_ND, labels_N = standin.rows(0, standin.num_rows, threads=2)
    n = len(labels_N)
    edges = undirected_edges(*exact_neighbors(features_ND, 0, n, 80, None, 2), 0, n)
    strong = edges.similarities >= 0.7
    components = evaluate_labels(component_roots(n, edges.sources[strong], edges.targets[strong]), labels_N)
    propagation = evaluate_labels(propagate(n, *edges, min_score=0.5, max_size=600, step=0.05), labels_N)
    assert components.pairwise_f == pytest.approx(0.639, abs=0.02)
    assert propagation.pairwise_f == pytest.approx(0.684, abs=0.02)


def test_memory_stays_with_the_block():
    standin = synthesize(300, seed=2)
    standin.rows(0, 1)
    tracemalloc.start()
    try:
        for features_ND, _ in standin.blocks(2 * TILE_ROWS, threads=2):
            block_bytes = features_ND.nbytes
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert standin.num_rows * DIM * 4 > 20e6 > 2 * (2 * TILE_ROWS) * DIM * 4 > block_bytes
    assert peak < 2 * (2 * TILE_ROWS) * DIM * 4 + 2 * 10e6


def test_written_files_hold_the_rows(tmp_path, standin, whole):
    features, labels = write_standin(tmp_path / "part", 100, seed=3, block_rows=1_500, threads=2)
    assert (features.name, labels.name) == ("features.bin", "labels.meta")
    assert features.read_bytes() == whole[0].astype("<f4").tobytes()
    assert np.array_equal(np.loadtxt(labels, dtype=np.int64), whole[1])
    assert sorted(path.name for path in (tmp_path / "part").iterdir()) == ["features.bin", "labels.meta"]


def test_only_files_of_the_same_call_are_replaced(tmp_path, whole):
    for _ in range(2):
        features, labels = write_standin(tmp_path, 100, seed=3)
    assert features.read_bytes() == whole[0].astype("<f4").tobytes()
    for path in (features, labels):
        kept = path.read_bytes()
        with pytest.raises(ConfigError, match="holds other data; choose another folder"):
            write_standin(tmp_path, 100, seed=4)
        assert path.read_bytes() == kept
    features.unlink()
    labels.write_text("mine")
    with pytest.raises(ConfigError, match=r"labels\.meta there holds other data"):
        write_standin(tmp_path, 100, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.meta"]


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(self, tile):
        raise KeyboardInterrupt

    monkeypatch.setattr(synth.StandIn, "_draw_tile", fail)
    with pytest.raises(KeyboardInterrupt):
        write_standin(tmp_path, 10, seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("num_identities", "seed"), [(1, 0), (0, 0), (100, -1)])
def test_impossible_sizes_and_seeds_are_refused(num_identities, seed):
    with pytest.raises(ConfigError, match="at least 2 identities and a seed >= 0"):
        synthesize(num_identities, seed)


def test_impossible_ranges_are_refused(standin):
    with pytest.raises(ConfigError, match="expected a range within 0"):
        standin.rows(5, standin.num_rows + 1)
    with pytest.raises(ConfigError, match="at least 1 row per block"):
        next(standin.blocks(0))
