"""Steps that are left out if a check finds enough, with what stands for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.runs.step import Facts, Step, in_order, only_if_needed
from engine.stages import Cost


@dataclass(frozen=True, kw_only=True, eq=False)
class Made(Step[Facts]):
    kind, version, title = "made", 1, "made"
    number_of: int
    reads: Step[Any] | None = None

    @property
    def number(self) -> int:
        return self.number_of

    def cost(self) -> Cost:
        return Cost()


def test_copies_are_left_out_and_others_stand_for_them() -> None:
    shared = Made(number_of=1)
    model = Made(number_of=2, reads=shared)
    check = Made(number_of=3, reads=model)
    first = Made(number_of=4, reads=shared)
    own_check = Made(number_of=5, reads=first)
    more = Made(number_of=6, reads=first, unless=own_check, instead=first)
    last, absent = only_if_needed([(more, None), (None, model)], check, [model, check], "other_")
    (end,) = only_if_needed([(Made(number_of=7, reads=last), model)], check, [model, check], "")
    assert absent is None
    stages = {stage.name: stage for stage in in_order(end)}
    assert set(stages) == {"made_1", "made_2", "made_3", "other_made_4", "other_made_5", "other_made_6", "made_7"}
    assert stages["other_made_4"].unless == "made_3"
    assert stages["other_made_4"].inputs == {"reads": "made_1"}
    assert (stages["other_made_5"].unless, stages["other_made_5"].instead) == ("made_3", "made_3")
    assert (stages["other_made_6"].unless, stages["other_made_6"].instead) == ("other_made_5", "other_made_4")
    assert (stages["made_7"].unless, stages["made_7"].instead) == ("made_3", "made_2")
