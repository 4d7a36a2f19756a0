"""Steps: the declared pieces of a run, each with its inputs, its cost and its work in one place.

A step is a frozen object. Its plain fields are its parameters. A field that holds another step is an input. A field
made by ``where`` only locates something. The fingerprint covers ``kind``, ``version``, the parameters and the
fingerprints of the inputs. It covers no name of a module or class, so code may move. A plan is all that its last steps
reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from pydantic import BaseModel

from engine.stages import Cost, Stage
from engine.storage.context import CompanionTask, TaskCall, TaskContext, read_npy, stage_facts
from engine.units import file_rows

F = TypeVar("F")
S = TypeVar("S", bound="Step[Any]")
Facts = dict[str, Any]


def where(default: Any = MISSING) -> Any:
    """Declare a field that locates something or says how; it cannot change a result, so no fingerprint covers it."""
    return field(default=default, metadata={"where": True})


@dataclass(frozen=True, kw_only=True, eq=False)
class Step(Generic[F]):
    """A step of one task. ``F`` is the type of the facts in its records: a dataclass, or a plain mapping.

    ``title`` names the stage to people, and ``prefix`` tells two stages of one title apart. ``facts`` is the class of
    ``F``. A step with ``unless`` is left out if that check finds ``enough``, and readers then take the outputs of
    ``instead``. The outputs of a ``scratch`` step are deleted once no later step reads them.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    title: ClassVar[str]
    facts: ClassVar[type[Any]] = dict
    all_workers: ClassVar[bool] = False
    prefix: str = where("")
    scratch: bool = where(False)
    unless: Step[Any] | None = where(None)
    instead: Step[Any] | None = where(None)
    made: int = field(init=False, default_factory=count().__next__, metadata={"where": True})

    @property
    def number(self) -> int:
        """Return a number that tells stages of one title in one plan apart; 0 if there is one."""
        return 0

    @property
    def name(self) -> str:
        """Return the name of the stage in a plan; its folder has this name and the fingerprint."""
        return f"{self.prefix}{self.title}" + (f"_{self.number}" if self.number else "")

    @property
    def extent(self) -> int:
        """Return the number of rows that are cut into tasks; 1 for a step of one task."""
        return 1

    @property
    def granule(self) -> int:
        """Return the rows that each task has a multiple of; 1 for a step of one task."""
        return 1

    def inputs(self) -> dict[str, Step[Any]]:
        """Return the steps that this one reads, by field."""
        found: dict[str, Step[Any]] = {}
        for each, value in self._values(located=False):
            if isinstance(value, Step):
                found[each] = value
            elif isinstance(value, tuple):
                found |= {f"{each}_{n:02}": item for n, item in enumerate(value) if isinstance(item, Step)}
        return found

    def params(self) -> Facts:
        """Return the fields that can change the result, besides the inputs."""
        read = self.inputs().values()
        return {
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in self._values(located=False)
            if value is not None and not any(each is value or each in _items(value) for each in read)
        }

    def located(self) -> Facts:
        """Return the fields made by ``where``, without those that every step has."""
        shared = {each.name for each in fields(Step)}
        return {name: value for name, value in self._values(located=True) if name not in shared}

    def _values(self, *, located: bool) -> Iterator[tuple[str, Any]]:
        for each in fields(self):
            if bool(each.metadata.get("where")) == located:
                yield each.name, getattr(self, each.name)

    def cost(self) -> Cost:
        """Project the memory, disk and seconds of the whole step."""
        raise NotImplementedError

    def run(self, task: Task, start: int, stop: int) -> F:
        """Do rows ``start`` to ``stop``: read inputs, call kernels, write outputs."""
        raise NotImplementedError

    def as_stage(self) -> Stage:
        """Return the stage that plan and runner know."""
        return Stage(
            self.name,
            RUN_STEP,
            self.version,
            self.params(),
            {name: step.name for name, step in self.inputs().items()},
            self.extent,
            self.cost(),
            self.located(),
            granule=self.granule,
            unless=self.unless.name if self.unless else "",
            instead=self.instead.name if self.instead else "",
            scratch=self.scratch,
            all_workers=self.all_workers,
            kind=self.kind,
            step=self,
        )


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


@dataclass(frozen=True, kw_only=True, eq=False)
class RowStep(Step[F]):
    """A step whose rows are cut into tasks."""

    num_rows: int

    @property
    def extent(self) -> int:
        return self.num_rows

    @property
    def granule(self) -> int:
        """Return the rows of a stored file: each has one writer."""
        return file_rows(self.num_rows)


class Outside:
    """A mark of a step that this run does not do; its outputs lie in the folder ``name``."""


class Task(TaskContext):
    """The argument of a step's ``run``: reads the outputs of the step's inputs, and writes its own."""

    companion_of: TaskContext | None = None

    def input(self, origin: str | Step[Any]) -> Path:
        """Return the folder of an input's outputs."""
        return super().input(self._field(origin))

    def array(self, origin: str | Step[Any], array: str) -> np.ndarray:
        """Map an array of an input, read-only; the process keeps the map between tasks."""
        return super().array(self._field(origin), array)

    def npy(self, origin: Step[Any], name: str) -> np.ndarray:
        """Map an array that an input wrote whole."""
        return read_npy(self.input(origin), name)

    def facts(self, origin: Step[F]) -> F:
        """Return the facts of an input's first task."""
        return self.all_facts(origin)[0]

    def all_facts(self, origin: Step[F]) -> list[F]:
        """Return the facts of each task of an input, in row order."""
        return [read_facts(origin, facts) for facts in stage_facts(self.input(origin))]

    def _field(self, origin: str | Step[Any]) -> str:
        if isinstance(origin, str):
            return origin
        for name, other in cast(Step[Any], self.call.step).inputs().items():
            if other is origin:
                return name
        raise LookupError(f"{self.call.stage} has no input {origin.name}: a step reads its own fields alone")


def read_facts(step: Step[F] | type[Step[F]], facts: Mapping[str, Any]) -> F:
    """Return a record's facts as the class that the step declares."""
    return cast(F, step.facts(**facts))


RUN_STEP = f"{__name__}:run_step"


def companion_task(call: TaskCall, kind: type[S]) -> tuple[S, Task]:
    """Return the step and the task of a companion, by the call that was sent, with inputs on this host."""
    context = CompanionTask(call)
    step, task = _at_hand(context)
    task.companion_of = context  # because the context keeps copies of inputs on this host
    assert isinstance(step, kind)
    return step, task


def _at_hand(context: TaskContext) -> tuple[Step[Any], Task]:
    """Return the step of a call, with places of this host, and its task."""
    step = replace(context.call.step, **context.where) if context.where else context.call.step
    values = {each.name: getattr(context, each.name) for each in fields(TaskContext)}
    return step, Task(**values | {"call": replace(context.call, step=step)})


def run_step(context: TaskContext, start: int, stop: int) -> Facts:
    """Run a task of the call's step, with places of this host."""
    step, task = _at_hand(context)
    told = step.run(task, start, stop)
    return asdict(told) if is_dataclass(told) and not isinstance(told, type) else dict(told or {})


def in_order(*ends: Step[Any] | None) -> list[Stage]:
    """Return the stages of all steps that the last steps need, in the order in which the steps were made.

    A step is made after the steps that it reads, so none comes before its inputs, and a flow's code reads like its
    plan. Steps from outside are left out.
    """
    return [step.as_stage() for step in _reached(ends)]


def only_if_needed(
    ends: Sequence[tuple[Step[Any] | None, Step[Any] | None]],
    check: Step[Any],
    kept: Sequence[Step[Any] | None],
    prefix: str,
) -> list[Any]:
    """Copy the first of each pair of steps and all that it reads, to be left out if ``check`` finds enough.

    Then readers of it take the outputs of the second, if there is one. Not copied are the steps ``kept`` and what these
    read. ``prefix`` comes before the copies' names. Returns the copies, ``None`` for ``None``.
    """
    stay = {step.made for step in _reached(kept)}
    checks = {step.unless.made for step in _reached([end for end, _ in ends]) if step.unless is not None}
    instead = {end.made: other for end, other in ends if end is not None}
    copies: dict[int, Step[Any]] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, tuple) and any(isinstance(item, Step) for item in value):
            return tuple(copied(item) for item in value)
        if not isinstance(value, Step) or isinstance(value, Outside) or value.made in stay:
            return value
        if value.made not in copies:
            changed = {each.name: copied(getattr(value, each.name)) for each in fields(value) if each.init}
            changed["prefix"] = prefix + value.prefix
            if value.unless is None:
                other = instead.get(value.made)
                changed |= {"unless": check, "instead": check if value.made in checks else other}
            copies[value.made] = replace(value, **changed)
        return copies[value.made]

    return [copied(end) for end, _ in ends]


def _reached(ends: Sequence[Step[Any] | None]) -> list[Step[Any]]:
    """All steps that lead to ``ends``, in the order in which they were made, without steps from outside."""
    found: dict[int, Step[Any]] = {}
    waiting = [end for end in ends if end is not None]
    while waiting:
        step = waiting.pop()
        if step.made in found or isinstance(step, Outside):
            continue
        found[step.made] = step
        waiting += [other for other in (*step.inputs().values(), step.unless, step.instead) if other is not None]
    return [found[number] for number in sorted(found)]
