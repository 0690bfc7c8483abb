"""A natural-language-inference set about the demo's small world, with the three classes of XNLI."""

import random
import re

from demo.events import KINDS, Event, draw_event, render
from demo.lexicon import Person, draw

LABELS = ("entailment", "neutral", "contradiction")

# For each kind of event: a claim about it, and the same claim denied.
CLAIMS = {
    "move": ("{who} moved to {town}.", "{who} never moved to {town}."),
    "opening": ("{who} opened a {shop}.", "{who} never opened a {shop}."),
    "purchase": ("{who} bought {goods}.", "{who} never bought {goods}."),
    "work": ("{who} is a {job}.", "{who} is not a {job}."),
    "book": ("{who} wrote about {topic}.", "{who} never wrote about {topic}."),
    "paint": ("The {thing} is {colour}.", "The {thing} is not {colour}."),
    "contest": ("{who} won the {contest}.", "{who} did not win the {contest}."),
}


def change_one_role(rng: random.Random, event: Event, claim: str) -> Event:
    """Return the event with another value for the last role of the claim, of the same kind of value."""
    role = re.findall(r"{(\w+)}", claim)[-1]
    value = event.values[role]
    while value == event.values[role]:
        value = draw(rng, event.kind.roles[role], [])
    return Event(event.kind, {**event.values, role: value})


def make_pair(rng: random.Random, persons: list[Person]) -> tuple[str, str, str]:
    """Return premise, hypothesis and label.

    Entailed: the event in other words. Neutral: another event of the same person, which the premise does not
    speak of. Contradicted: the claim denied, or its object exchanged where only one can be true.
    """
    name = rng.choice(list(CLAIMS))
    claim, denial = CLAIMS[name]
    event = draw_event(rng, KINDS[name], persons)
    premise, _ = render(rng.choice(event.kind.statements), event.values)
    label = rng.choice(LABELS)
    if label == "entailment":
        hypothesis = render(claim, event.values)[0]
    elif label == "contradiction":
        exchangeable = name in ("work", "paint") and rng.random() < 0.5
        told = change_one_role(rng, event, claim) if exchangeable else event
        hypothesis = render(claim if exchangeable else denial, told.values)[0]
    else:
        other_name = rng.choice([other for other in CLAIMS if other != name])
        other = draw_event(rng, KINDS[other_name], persons)
        hypothesis = render(rng.choice(CLAIMS[other_name]), {**other.values, "who": event.values["who"]})[0]
    return premise, hypothesis, label


def make_pairs(rng: random.Random, persons: list[Person], count: int) -> list[tuple[str, str, str]]:
    """Return `count` different (premise, hypothesis, label)."""
    pairs: dict[tuple[str, str, str], None] = {}
    while len(pairs) < count:
        pairs[make_pair(rng, persons)] = None
    return list(pairs)
