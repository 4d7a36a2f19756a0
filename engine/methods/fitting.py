"""What a method's ``fit`` does around its training, and how later stages find the network that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save
from torch import Tensor, nn

from engine.errors import DataError
from engine.learning.loop import CheckpointFile
from engine.learning.tensors import load_network, read_tensors
from engine.plan import Cost, Stage
from engine.storage.context import TaskContext, hold
from engine.storage.places import Place

N = TypeVar("N", bound=nn.Module)

FITTED_WEIGHTS = "weights.safetensors"


class _SharedCheckpoint(CheckpointFile):
    """A checkpoint that another host can go on from, where the run is at a URL."""

    def __init__(self, path: Path, place: Place) -> None:
        super().__init__(path)
        self.place = place

    def write(self, data: bytes) -> None:
        super().write(data)
        self.place.publish(self.path)


@contextmanager
def checkpoint(task: TaskContext, name: str = "checkpoint") -> Iterator[CheckpointFile]:
    """A checkpoint in the stage's folder, removed once the block, which writes what was trained, is through."""
    file = _SharedCheckpoint(task.folder / f"{name}.safetensors", task.place)
    file.place.recall(file.path)
    yield file
    file.path.unlink(missing_ok=True)
    file.place.withdraw(file.path)


def report_steps(task: TaskContext, part: int = 0, parts: int = 1) -> Callable[[int, int], None]:
    """What shows a training's steps as the task's progress; as one of several trainings, if there are ``parts``."""
    return lambda step, steps: task.report((part + step / steps) / parts, f"step {step:,} of {steps:,}")


def write_weights(task: TaskContext, tensors: Mapping[str, Tensor]) -> None:
    """Write what was trained as ``weights.safetensors``."""
    on_host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(on_host)))


def nothing_to_fit() -> Stage:
    """The ``fit`` of a method without weights, of which training chooses parameters alone."""
    cost = Cost(disk_bytes=1 << 12)
    return Stage("fit", "engine.methods.fitting:fit_nothing", 1, {}, {"knn": "knn"}, 1, cost, granule=1)


def fit_nothing(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the weights of a method without any."""
    write_weights(task, {})
    return {}


def weights_path(task: TaskContext, fitted: str = "fit") -> str:
    """The given model's weights, else those that the stage ``fitted`` wrote."""
    return task.where.get("weights") or str(task.input(fitted) / FITTED_WEIGHTS)


def read_network(task: TaskContext, build: Callable[[], N], *, prefix: str = "", device: str = "cpu") -> N:
    """The network that ``build`` makes, with its weights; their names begin with ``prefix``. Held between tasks."""
    path = weights_path(task)

    def load() -> N:
        network = build()
        try:
            load_network(network, read_tensors(path, load_file), prefix)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        return network.eval().to(device)

    return hold(("network", path, prefix, task.call.digest), load)
