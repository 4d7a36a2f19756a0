import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.storage.formats.knn_graph import normalise_knn_block, open_knn_graph
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

N, K = 12, 4
RANDOM = np.random.default_rng(0)
IDS = np.array([RANDOM.permutation(N)[:K] for _ in range(N)])
DISTANCES = np.sort(RANDOM.random((N, K)), axis=1)


def save_npz(tmp_path, ids=IDS, distances=DISTANCES, dtype=np.float64, save=np.savez_compressed):
    save(tmp_path / "faiss_k_80.npz", data=np.stack([ids, distances], axis=1).astype(dtype))
    return tmp_path / "faiss_k_80.npz"


def reference(start, neighbors, similarities):
    """Say in plain Python what ``normalise_knn_block`` promises."""
    out = []
    for row, (ids, values) in enumerate(zip(neighbors.tolist(), similarities.tolist(), strict=True)):
        best = {}
        for i, value in zip(ids, values, strict=True):
            if i not in (-1, start + row):
                best[i] = max(best.get(i, -2.0), min(max(value, -1.0), 1.0))
        ordered = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
        out.append(ordered + [(NO_NEIGHBOR, NO_SIMILARITY)] * (len(ids) - len(ordered)))
    return np.array(out).reshape(*neighbors.shape, 2)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_npz_in_any_blocks(tmp_path, save, dtype):
    graph = open_knn_graph(save_npz(tmp_path, save=save, dtype=dtype), N)
    assert (graph.num_rows, graph.k) == (N, K)
    assert graph.sequential == (save is np.savez_compressed)
    assert graph.files() == [tmp_path / "faiss_k_80.npz"]
    expected = (1.0 - DISTANCES.astype(dtype)).astype(np.float32)
    for start, stop in [(0, N), (0, 5), (5, 9), (9, N), (2, 3), (4, 4)]:
        neighbors, similarities = graph.read(start, stop)
        assert (neighbors.dtype, similarities.dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(neighbors, IDS[start:stop])
        np.testing.assert_array_equal(similarities, expected[start:stop])


def test_ids_only_npy(tmp_path):
    np.save(tmp_path / "knn.npy", np.column_stack([np.arange(N), IDS]))
    graph = open_knn_graph(tmp_path / "knn.npy", N)
    neighbors, similarities = graph.read(3, 7)
    assert similarities is None
    np.testing.assert_array_equal(neighbors[:, 0], [3, 4, 5, 6])
    np.testing.assert_array_equal(neighbors[:, 1:], IDS[3:7])


def test_folder_of_two_arrays(tmp_path):
    np.save(tmp_path / "neighbors.npy", IDS.astype(np.uint32))
    with pytest.raises(DataError, match=r"needs similarities\.npy"):
        open_knn_graph(tmp_path, N)
    np.save(tmp_path / "similarities.npy", (1 - DISTANCES).astype(np.float16))
    graph = open_knn_graph(tmp_path, N)
    neighbors, similarities = graph.read(1, 4)
    np.testing.assert_array_equal(neighbors, IDS[1:4])
    np.testing.assert_array_equal(similarities, (1 - DISTANCES).astype(np.float16)[1:4])
    assert [file.name for file in graph.files()] == ["neighbors.npy", "similarities.npy"]
    np.save(tmp_path / "similarities.npy", DISTANCES[:, 1:])
    with pytest.raises(DataError, match=r"expected floats of shape \(12, 4\)"):
        open_knn_graph(tmp_path, N)


def test_graphs_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such KNN graph"):
        open_knn_graph(tmp_path / "absent.npz", N)
    with pytest.raises(DataError, match="a graph of 12 rows and 4 neighbours each, but there are 13 vectors"):
        open_knn_graph(save_npz(tmp_path), N + 1)
    np.savez(tmp_path / "x.npz", data=IDS)
    with pytest.raises(DataError, match=r"expected floats of shape \(N, 2, K\)"):
        open_knn_graph(tmp_path / "x.npz", N)
    np.save(tmp_path / "x.npy", DISTANCES)
    with pytest.raises(DataError, match=r"expected integer neighbour ids of shape \(N, K\), got float64"):
        open_knn_graph(tmp_path / "x.npy", N)
    np.save(tmp_path / "x.npy", IDS[:, :0])
    with pytest.raises(DataError, match="0 neighbours each"):
        open_knn_graph(tmp_path / "x.npy", N)
    (tmp_path / "x.pkl").touch()
    with pytest.raises(DataError, match="not a known format of KNN graphs"):
        open_knn_graph(tmp_path / "x.pkl", N)
    np.savez(tmp_path / "h.npz", data=np.zeros((2049, 2, 1), np.float16))
    with pytest.raises(DataError, match="float16 cannot hold the ids of 2049 rows exactly"):
        open_knn_graph(tmp_path / "h.npz", 2049)


@pytest.mark.parametrize("bad", [1.5, np.nan, np.inf, 1e30])
def test_ids_that_are_not_whole_name_the_row(tmp_path, bad):
    ids = IDS.astype(np.float64)
    ids[7, 2] = bad
    graph = open_knn_graph(save_npz(tmp_path, ids), N)
    graph.read(0, 7)
    with pytest.raises(DataError, match="row 7 has a neighbour id that is not whole"):
        graph.read(5, 9)


def test_normalise_one_row_by_hand():
    neighbors = np.array([[9, 5, 3, -1, 3, 7, 2]])
    similarities = np.array([[1.0, 0.5, 0.5, np.nan, 0.75, 1.5, -3.0]])
    ids, values = normalise_knn_block(9, neighbors, similarities, N)
    assert (ids.dtype, values.dtype) == (np.int32, np.float32)
    assert ids.tolist() == [[7, 3, 5, 2, -1, -1, -1]]
    assert values.tolist() == [[1.0, 0.75, 0.5, -1.0, -2.0, -2.0, -2.0]]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), rows=st.integers(0, 6), k=st.integers(1, 12), num=st.integers(1, 40))
def test_normalise_equals_its_reference(data, rows, k, num):
    start = data.draw(st.integers(0, num))
    ids = data.draw(st.lists(st.integers(-1, num - 1), min_size=rows * k, max_size=rows * k))
    # Few distinct values, so that ties are common.
    values = data.draw(st.lists(st.sampled_from([-1.5, -1, -0.5, 0, 0.25, 1, 2]), min_size=rows * k, max_size=rows * k))
    neighbors = np.array(ids, np.int64).reshape(rows, k)
    similarities = np.array(values, np.float32).reshape(rows, k)
    out_ids, out_values = normalise_knn_block(start, neighbors, similarities, num)
    expected = reference(start, neighbors, similarities)
    np.testing.assert_array_equal(out_ids, expected[..., 0])
    np.testing.assert_array_equal(out_values, expected[..., 1])


def test_normalise_does_not_depend_on_blocks(tmp_path):
    graph = open_knn_graph(save_npz(tmp_path), N)
    whole = normalise_knn_block(0, *graph.read(0, N), N)
    for row in range(N):
        ids, values = normalise_knn_block(row, *graph.read(row, row + 1), N)
        np.testing.assert_array_equal(ids[0], whole[0][row])
        np.testing.assert_array_equal(values[0], whole[1][row])


def test_large_ids_do_not_collide():
    num = 2**31 - 1
    neighbors = np.sort(np.random.default_rng(2).choice(num, 1024, replace=False))[None]
    neighbors[0, :512] = neighbors[0, 512:] & ~np.int64(0xFFFF)  # many share their low bits
    similarities = np.linspace(1, -1, 1024, dtype=np.float32)[None]
    ids, _ = normalise_knn_block(5, neighbors, similarities, num)
    expected = reference(5, neighbors, similarities)[..., 0]
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(("bad", "message"), [(12, "12 is outside 0..11"), (-2, "-2 is outside 0..11")])
def test_ids_out_of_range_name_the_row(bad, message):
    ids = IDS.copy()
    ids[5, 1] = bad
    with pytest.raises(DataError, match=rf"row 105: neighbour id {message}"):
        normalise_knn_block(100, ids, 1 - DISTANCES, N)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_similarities_that_are_not_finite_name_the_row(bad):
    similarities = 1 - DISTANCES
    similarities[5, 1] = bad
    with pytest.raises(DataError, match=rf"row 105: similarity to {IDS[5, 1]} is {bad}"):
        normalise_knn_block(100, IDS, similarities, N)


def test_shapes_must_agree():
    with pytest.raises(DataError, match=r"expected the same \(N, K\)"):
        normalise_knn_block(0, IDS, DISTANCES[:, 1:], N)
