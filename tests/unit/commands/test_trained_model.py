"""A model is a small folder, and its training has another."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine import api
from engine.errors import ConfigError, DataError, ManifestMismatch
from tests.support.vectors import make_blobs

FILES = ["README.md", "model.json", "model.safetensors"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vectors, labels of some rows, and a model with its training."""
    root = tmp_path_factory.mktemp("trained")
    np.save(root / "x.npy", make_blobs(300, 16))
    rng = np.random.default_rng(0)  # as make_blobs draws them
    rng.standard_normal((25, 16))
    labels = rng.permutation(300) % 25
    labels[:20] = -1
    np.save(root / "y_of|x.npy", labels)
    train(root)
    return root


def train(root: Path, **given: object) -> None:
    api.train(root / "x.npy", root / "y_of|x.npy", root / "model", method="cdp", **({"knn.k": 7} | given))


def test_a_model_is_three_files_and_its_training_lies_beside_it(trained: Path) -> None:
    assert sorted(path.name for path in (trained / "model").iterdir()) == FILES
    training = Path(api.training_folder(trained / "model"))
    assert training == trained / "model-training"
    assert list(training.glob("fit-*"))
    assert not list(training.glob("model*"))


def test_the_page_of_a_model_tells_data_settings_scores_and_limits(trained: Path) -> None:
    page = (trained / "model/README.md").read_text()
    for words in ("x.npy, 300 rows of 16 dimensions", "y\\_of\\|x.npy, 280 rows of 25 identities", "| `knn.k` | 7 |",
                  "| propagation (preferred) | ", "`min_score` ", "## Limits"):  # fmt: skip
        assert words in page
    assert str(trained) not in page


def test_a_training_is_resumed_from_its_folder_and_leaves_the_same_model(trained: Path) -> None:
    before = {name: (trained / "model" / name).read_bytes() for name in FILES}
    shutil.rmtree(trained / "model")
    api.resume(trained / "model-training", progress=False)
    assert {name: (trained / "model" / name).read_bytes() for name in FILES} == before


def test_other_settings_train_in_the_same_folder(trained: Path) -> None:
    ingested = next((trained / "model-training").glob("ingest-*"))
    train(trained, **{"knn.k": 6})
    assert ingested.exists()
    assert "| `knn.k` | 6 |" in (trained / "model/README.md").read_text()
    train(trained)


def test_a_model_needs_nothing_of_its_training(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "model", tmp_path / "model")
    found = api.cluster(trained / "x.npy", model=tmp_path / "model", workspace=tmp_path / "run")
    assert len(found.labels) == 300


def test_other_files_and_models_of_other_trainings_are_not_replaced(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/model-training")
    with pytest.raises(ManifestMismatch, match=r"holds a model whose training is not in .*model-training"):
        train(tmp_path / "copy")
    (tmp_path / "copy/model/notes.txt").touch()
    with pytest.raises(ManifestMismatch, match="holds more than a model"):
        train(tmp_path / "copy")
    request = api.Request(str(trained / "x.npy"), labels=str(trained / "y_of|x.npy"))
    with pytest.raises(ConfigError, match="training needs --out"):
        api.prepare("training", tmp_path / "t", request)


def test_folders_of_models_and_trainings_are_called_so_where_a_run_is_asked_for(trained: Path) -> None:
    with pytest.raises(DataError, match=r"holds a trained model, not a run.*model-training"):
        api.run_labels(trained / "model")
    with pytest.raises(DataError, match=r"holds a training, no clusters: asterism run --model .*/model makes"):
        api.run_labels(trained / "model-training")
