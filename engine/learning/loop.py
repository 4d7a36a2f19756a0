"""The training loop of every torch network here: resumable, stopped where the held-out loss is least.

Everything random in step s follows from (seed, s), so a checkpoint is the network, the optimisers' moments and a
number. Training is deterministic for one process and device, whatever the number of threads: torch runs on one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
import xxhash
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from engine.errors import ManifestMismatch
from engine.learning.settings import TrainSettings
from engine.storage.manifest import write_atomic
from engine.storage.paths import check_file, explain_reading
from engine.tiles import single_threaded_kernels

LossOfStep = Callable[[int], Tensor | None]

APART_RATE = 1e-3
_STATE_KEY = "asterism"
_SEAL_BYTES = 16


class Checkpoint(Protocol):
    """Where training keeps its one checkpoint; ``write`` must be atomic."""

    def read(self) -> bytes | None: ...

    def write(self, data: bytes) -> None: ...


class CheckpointFile:
    """A checkpoint in a file, with a checksum behind it: no record answers for it yet.

    A damaged one is none: training starts over, and ends with the same weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes | None:
        if not os.path.lexists(self.path):
            return None
        with explain_reading(self.path):
            saved = check_file(self.path).read_bytes()
        data = saved[:-_SEAL_BYTES]
        return data if saved[-_SEAL_BYTES:] == xxhash.xxh3_128(data).digest() else None

    def write(self, data: bytes) -> None:
        write_atomic(self.path, lambda stream: stream.write(data + xxhash.xxh3_128(data).digest()))


@dataclass(frozen=True)
class Evaluation:
    """One evaluation on what is held out; ``held_out_auc`` of networks that tell two classes apart, else ``None``."""

    step: int
    train_loss: float
    held_out_loss: float
    held_out_auc: float | None = None


class TrainingLoop:
    """Steps, evaluations and checkpoints of one network; ``settings`` is a hash of all that its training hangs on.

    Parameters named in ``apart`` have an optimiser of their own, Adam at ``APART_RATE`` throughout.
    """

    def __init__(
        self, model: nn.Module, config: TrainSettings, settings: str, device: str = "cpu", apart: Sequence[str] = ()
    ) -> None:
        self.model, self.config, self.settings, self.device = model, config, settings, device
        self.parameters = dict(model.named_parameters())
        main = [parameter for name, parameter in self.parameters.items() if name not in apart]
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            self.optimizer = torch.optim.AdamW(
                main, lr=config.learning_rate, weight_decay=config.weight_decay, foreach=False
            )
        else:
            self.optimizer = torch.optim.SGD(
                main, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=0.9
            )
        self.optimizers: list[torch.optim.Optimizer] = [self.optimizer]
        if apart:
            own = [self.parameters[name] for name in apart]
            self.optimizers.append(torch.optim.Adam(own, lr=APART_RATE, foreach=False))
        self._optimizer_of = {name: self.optimizers[name in apart] for name in self.parameters}
        self.history: list[Evaluation] = []
        self._best: dict[str, Tensor] = {}

    def restore(self, checkpoint: Checkpoint | None) -> int:
        """Take up the checkpoint, if there is one; returns the step to go on from.

        Raises ``ManifestMismatch`` for one of other settings.
        """
        saved = checkpoint.read() if checkpoint else None
        return self._restore(saved) if saved else 0

    def run(
        self,
        step: int,
        *,
        loss_of_step: LossOfStep,
        evaluate: Callable[[], tuple[float, float | None]],
        checkpoint: Checkpoint | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Train from ``step`` until the held-out loss stops improving or ``max_steps``, and keep the best weights.

        ``loss_of_step`` gives the loss of a step's batch, ``None`` for an empty one; ``evaluate`` the held-out loss and
        AUC. Returns the best evaluation.
        """
        losses, since = 0.0, step
        with single_threaded_kernels():  # small tensors: a second thread costs more in barriers than it brings
            while step < self.config.max_steps and not self._finished():
                losses += self._step(step, loss_of_step)
                step += 1
                if step % self.config.evaluate_every == 0 or step == self.config.max_steps:
                    self._evaluate(step, losses / (step - since), evaluate)
                    losses, since = 0.0, step
                    if checkpoint:
                        checkpoint.write(self._saved(step))
                if progress:
                    progress(step, self.config.max_steps)
        self.model.load_state_dict(self._best)
        self.model.eval()
        return min(self.history, key=lambda entry: entry.held_out_loss)

    def _step(self, step: int, loss_of_step: LossOfStep) -> float:
        share = (step + 1) / self.config.max_steps
        rate = self.config.learning_rate * 0.1 ** sum(share > mark for mark in self.config.milestones)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        loss = loss_of_step(step)
        if loss is None:
            return 0.0
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            optimizer.step()
        return float(loss.detach())

    def _evaluate(self, step: int, train_loss: float, evaluate: Callable[[], tuple[float, float | None]]) -> None:
        self.model.eval()
        with torch.no_grad():
            loss, auc = evaluate()
        self.history.append(Evaluation(step, train_loss, loss, auc))
        if loss <= min(entry.held_out_loss for entry in self.history):
            self._best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _finished(self) -> bool:
        losses = [entry.held_out_loss for entry in self.history]
        return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self.config.patience

    def _saved(self, step: int) -> bytes:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for name, parameter in self.parameters.items():
            for key, value in self._optimizer_of[name].state[parameter].items():
                if value is not None:
                    tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        state = {"step": step, "settings": self.settings, "history": [asdict(entry) for entry in self.history]}
        contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return save_tensors(contiguous, {_STATE_KEY: json.dumps(state, sort_keys=True)})

    def _restore(self, saved: bytes) -> int:
        tensors = load_tensors(saved)
        state = json.loads(json.loads(saved[8 : 8 + int.from_bytes(saved[:8], "little")])["__metadata__"][_STATE_KEY])
        if state["settings"] != self.settings:
            raise ManifestMismatch(
                "training: the checkpoint was written with other settings or data; train in another folder, "
                "or delete the checkpoint"
            )
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        self._best = groups["best"]
        for name, tensor in groups["optimizer"].items():
            key, _, parameter = name.partition(".")
            moments, on_host = self._optimizer_of[parameter].state[self.parameters[parameter]], key == "step"
            moments[key] = tensor if on_host else tensor.to(self.device)
        self.history = [Evaluation(**entry) for entry in state["history"]]
        return int(state["step"])
