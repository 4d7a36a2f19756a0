"""What a method's ``fit`` does around its training, and how later stages find the network that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save
from torch import Tensor, nn

from engine.errors import DataError
from engine.learning.loop import CheckpointFile
from engine.learning.tensors import load_network, read_tensors
from engine.methods.model_card import Model
from engine.runs.step import F, Facts, Step, Task, where
from engine.stages import Cost
from engine.steps.knn import Knn
from engine.storage.context import hold
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
def checkpoint(task: Task, name: str = "checkpoint") -> Iterator[CheckpointFile]:
    """A checkpoint in the stage's folder, removed once the block, which writes what was trained, is through."""
    file = _SharedCheckpoint(task.folder / f"{name}.safetensors", task.place)
    file.place.recall(file.path)
    yield file
    file.path.unlink(missing_ok=True)
    file.place.withdraw(file.path)


def report_steps(task: Task, part: int = 0, parts: int = 1) -> Callable[[int, int], None]:
    """What shows a training's steps as the task's progress; as one of several trainings, if there are ``parts``."""
    return lambda step, steps: task.report((part + step / steps) / parts, f"step {step:,} of {steps:,}")


def write_weights(task: Task, tensors: Mapping[str, Tensor]) -> None:
    """Write what was trained as ``weights.safetensors``."""
    on_host = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    task.write_file(FITTED_WEIGHTS, lambda stream: stream.write(save(on_host)))


@dataclass(frozen=True, kw_only=True, eq=False)
class FitNothing(Step[Facts]):
    """The ``fit`` of a method without weights, of which training chooses parameters alone."""

    kind, version, title = "fit.nothing", 1, "fit"
    knn: Knn

    def cost(self) -> Cost:
        """Next to nothing."""
        return Cost(disk_bytes=1 << 12)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Write the weights of a method without any."""
        write_weights(task, {})
        return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted(Step[F]):
    """A step that applies weights: those that ``fit`` left, or of the model of digest ``model``, in ``weights``."""

    fit: Step[Facts] | None = None
    model: str | None = None
    weights: str = where("")

    def weights_path(self, task: Task) -> str:
        """The file that holds the weights."""
        return self.weights if self.fit is None else str(task.input(self.fit) / FITTED_WEIGHTS)

    def read_network(self, task: Task, build: Callable[[], N], *, prefix: str = "", device: str = "cpu") -> N:
        """The network that ``build`` makes, with its weights, whose names begin with ``prefix``; held between tasks."""
        path = self.weights_path(task)

        def load() -> N:
            network = build()
            try:
                load_network(network, read_tensors(path, load_file), prefix)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            return network.eval().to(device)

        return hold(("network", path, prefix, task.call.digest), load)


def from_model(model: Model) -> dict[str, Any]:
    """The fields of ``Weighted`` for a model's weights."""
    return {"model": model.digest, "weights": model.weights}
