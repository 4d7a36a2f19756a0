"""Sentences drawn from the grammars of the package ``home_assistant_intents``: what people ask a home to do.

A grammar's template has alternatives ``(a|b)``, parts that may be missing ``[a]``, parts in any order ``a;b``, rules
``<name>`` and lists of values ``{name}``; lists without values in the package have some here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = 150  # of an intent, at most
DRAWS = 10 * SENTENCES
CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
VALUES = {
    "area": "attic|basement|bathroom|bedroom|dining room|garage|garden|hallway|kitchen|living room|nursery|office",
    "name": "camera|ceiling lamp|coffee maker|desk light|fan|front door|heater|radio|sprinkler|tv|groceries|chores",
    "floor": "first|second|ground|upper",
    "message": "dinner is ready|time to leave|good night everyone|the guests are here",
    "todo_list_item": "clean the gutters|call mom|pay rent|book flights",
    "shopping_list_item": "apples|milk|bread|cheese|toothpaste",
    "search_query": "the beatles|miles davis|star wars|jazz classics|frozen",
    "timer_name": "pizza|laundry|egg",
    "conversation_command": "open the blinds|turn off the tv|lock the door",
}


def intents(folder: Path) -> tuple[list[str], np.ndarray]:
    """Draw sentences (N,) and the intent of each from the English grammar in the package's folder."""
    grammar = json.loads((folder / "data/en.json").read_text(encoding="utf-8"))
    sampler, sentences, identities = Sampler(grammar), [], []
    for number, intent in enumerate(grammar["intents"].values()):
        templates = [template for block in intent["data"] for template in block["sentences"]]
        drawn: set[str] = set()
        for _ in range(DRAWS):
            drawn.add(" ".join(sampler.draw(templates[sampler.below(len(templates))]).split()))
            if len(drawn) == SENTENCES:
                break
        sentences += sorted(drawn)
        identities += [number] * len(drawn)
    return sentences, np.array(identities)


class Sampler:
    """Draws sentences of a grammar's templates."""

    def __init__(self, grammar: dict[str, Any], seed: int = 0) -> None:
        self._rules, self._lists = grammar["expansion_rules"], grammar["lists"]
        self._stream = np.random.default_rng(seed)

    def below(self, count: int) -> int:
        """Draw a number."""
        return int(self._stream.integers(count))

    def draw(self, template: str) -> str:
        """Draw one of a template's sentences."""
        choices = _parts(template, "|")
        if len(choices) > 1:
            return self.draw(choices[self.below(len(choices))])
        turns = _parts(template, ";")
        if len(turns) > 1:
            return " ".join(self.draw(turns[place]) for place in self._stream.permutation(len(turns)))
        out, place = "", 0
        while place < len(template):
            sign = template[place]
            if sign not in CLOSING:
                out, place = out + sign, place + 1
                continue
            end = _end(template, place)
            body, place = template[place + 1 : end], end + 1
            if sign == "(" or (sign == "[" and self.below(2)):
                out += self.draw(body)
            elif sign == "<":
                out += self.draw(self._rules.get(body, body))
            elif sign == "{":
                out += self._value(body)
        return out

    def _value(self, name: str) -> str:
        kind, slot = name.split(":")[0], name.split(":")[-1]
        known = self._lists.get(kind) or self._lists.get(slot) or {}
        if kind in VALUES or not known.keys() & {"values", "range"}:
            return self.draw(VALUES.get(kind, kind.replace("_", " ")))
        if "range" in known:
            return str(known["range"]["from"] + self.below(known["range"]["to"] + 1 - known["range"]["from"]))
        value = known["values"][self.below(len(known["values"]))]
        return self.draw(value if isinstance(value, str) else value["in"])


def _end(template: str, start: int) -> int:
    """Where the bracket closes that opens at ``start``."""
    opening, depth = template[start], 0
    for place in range(start, len(template)):
        depth += (template[place] == opening) - (template[place] == CLOSING[opening])
        if depth == 0:
            return place
    raise ValueError(f"{template}: {opening} is not closed")


def _parts(template: str, sign: str) -> list[str]:
    """Split at a sign outside all brackets."""
    parts, depth = [""], 0
    for each in template:
        depth += (each in CLOSING) - (each in CLOSING.values())
        if each == sign and depth == 0:
            parts.append("")
        else:
            parts[-1] += each
    return parts
