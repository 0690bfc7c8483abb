"""What happens in the demo's small world: kinds of event, how they are told, and what can be asked."""

import random
import re
from dataclasses import dataclass

from demo.lexicon import Person, draw


@dataclass(frozen=True)
class EventKind:
    """One kind of event.

    Attributes:
        roles: The kind of value each role takes, as demo.lexicon.draw knows it.
        statements: Ways to tell it; each names every role in braces.
        questions: (question, role that answers it).
    """

    roles: dict[str, str]
    statements: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Event:
    """An event that happened: its kind and the value of each role."""

    kind: EventKind
    values: dict[str, str | Person]

    def answers(self, question: str, role: str, other: "Event") -> bool:
        """Tell whether this event gives another answer to a question that was asked about `other`."""
        mentioned = set(re.findall(r"{(\w+)}", question))
        same = all(str(self.values[name]) == str(other.values[name]) for name in mentioned)
        return same and str(self.values[role]) != str(other.values[role])


KINDS: dict[str, EventKind] = {
    "move": EventKind(
        {"who": "person", "town": "town", "year": "year"},
        ("{who} moved to {town} in {year}.", "In {year}, {who} moved to {town}."),
        (
            ("When did {who} move to {town}?", "year"),
            ("Where did {who} move in {year}?", "town"),
            ("Who moved to {town}?", "who"),
            ("In which year did {who} settle in {town}?", "year"),
        ),
    ),
    "opening": EventKind(
        {"who": "person", "shop": "shop", "town": "town"},
        ("{who} opened a {shop} in {town}.", "In {town}, {who} opened a {shop}."),
        (
            ("What did {who} open in {town}?", "shop"),
            ("Where did {who} open a {shop}?", "town"),
            ("Who opened a {shop} in {town}?", "who"),
        ),
    ),
    "purchase": EventKind(
        {"who": "person", "count": "count", "goods": "goods", "town": "town"},
        ("{who} bought {count} {goods} in {town}.", "At the market in {town}, {who} bought {count} {goods}."),
        (
            ("How many {goods} did {who} buy?", "count"),
            ("What did {who} buy in {town}?", "goods"),
            ("Who bought {goods} in {town}?", "who"),
            ("Where did {who} buy {goods}?", "town"),
        ),
    ),
    "meeting": EventKind(
        {"who": "person", "other": "person", "date": "date"},
        ("{who} met {other} on {date}.", "On {date}, {who} met {other}."),
        (
            ("Who did {who} meet on {date}?", "other"),
            ("When did {who} meet {other}?", "date"),
        ),
    ),
    "work": EventKind(
        {"who": "person", "job": "job", "spot": "spot"},
        ("{who} works as a {job} at the {spot}.", "The {job} at the {spot} is called {who}."),
        (
            ("What does {who} work as?", "job"),
            ("Where does {who} work?", "spot"),
            ("Who works as a {job}?", "who"),
        ),
    ),
    "book": EventKind(
        {"who": "person", "topic": "topic", "year": "year"},
        ("{who} wrote a book about {topic} in {year}.", "In {year}, {who} wrote a book about {topic}."),
        (
            ("What did {who} write a book about?", "topic"),
            ("When did {who} write about {topic}?", "year"),
            ("Who wrote about {topic}?", "who"),
        ),
    ),
    "paint": EventKind(
        {"who": "person", "thing": "thing", "colour": "colour"},
        ("{who} painted the {thing} {colour}.", "The {thing} was painted {colour} by {who}."),
        (
            ("Which colour did {who} paint the {thing}?", "colour"),
            ("What did {who} paint {colour}?", "thing"),
            ("Who painted the {thing}?", "who"),
        ),
    ),
    "contest": EventKind(
        {"who": "person", "contest": "contest", "count": "count"},
        ("{who} won the {contest} with {count} points.", "With {count} points, {who} won the {contest}."),
        (
            ("How many points did {who} score in the {contest}?", "count"),
            ("What did {who} win?", "contest"),
            ("Who won the {contest}?", "who"),
        ),
    ),
    "gift": EventKind(
        {"who": "person", "gift": "gift", "other": "person"},
        ("{who} gave a {gift} to {other}.", "{other} received a {gift} from {who}."),
        (
            ("Who gave a {gift} to {other}?", "who"),
            ("What did {who} give to {other}?", "gift"),
            ("Who received a {gift} from {who}?", "other"),
        ),
    ),
    "journey": EventKind(
        {"who": "person", "start": "town", "end": "town", "vehicle": "vehicle"},
        (
            "{who} travelled from {start} to {end} by {vehicle}.",
            "By {vehicle}, {who} travelled to {end} from {start}.",
        ),
        (
            ("How did {who} travel to {end}?", "vehicle"),
            ("Where did {who} start for {end}?", "start"),
            ("Where did {who} travel from {start}?", "end"),
            ("Who travelled to {end}?", "who"),
        ),
    ),
}


def draw_event(rng: random.Random, kind: EventKind, persons: list[Person]) -> Event:
    """Draw a value for each role; two roles never have the same value."""
    values: dict[str, str | Person] = {}
    for role, value_kind in kind.roles.items():
        value = draw(rng, value_kind, persons)
        while value in values.values():
            value = draw(rng, value_kind, persons)
        values[role] = value
    return Event(kind, values)


def render(template: str, values: dict[str, str | Person]) -> tuple[str, dict[str, int]]:
    """Fill a template; return the text and the character where each role's value starts."""
    text, starts = "", {}
    for position, part in enumerate(re.split(r"{(\w+)}", template)):
        if position % 2:
            starts[part] = len(text)
            text += str(values[part])
        else:
            text += part
    return text, starts
