"""A reading-comprehension set in SQuAD's format, about the demo's small world."""

import random

from demo.events import KINDS, Event, draw_event, render
from demo.lexicon import Person, draw

ASIDES = (
    "It was a {weather} day.",
    "Nobody knew why.",
    "The newspaper told the story later.",
    "Life was quiet there.",
)
PRONOUN_RATE = 0.25
ASIDE_RATE = 0.15
QUESTIONS_PER_PARAGRAPH = 4


def draw_events(rng: random.Random, persons: list[Person]) -> list[Event]:
    """Draw the events of one paragraph.

    Few people and few kinds of event come up again and again, so that neither the name nor the kind of a
    question alone leads to its answer.
    """
    cast = rng.sample(persons, 3)
    kinds = rng.sample(list(KINDS.values()), 2)
    return [draw_event(rng, rng.choice(kinds), cast) for _ in range(rng.randint(2, 4))]


def tell(rng: random.Random, events: list[Event], persons: list[Person]) -> tuple[str, list[dict[str, int]]]:
    """Write the paragraph; return it and, for each event, the character where each role's value starts.

    A role that only a pronoun stands for is missing there.
    """
    text, positions = "", []
    previous = None
    for event in events:
        template = rng.choice(event.kind.statements)
        who = event.values["who"]
        use_pronoun = previous == who and template.startswith("{who}") and rng.random() < PRONOUN_RATE
        if use_pronoun:
            template = template.replace("{who}", who.pronoun, 1)
        sentence, starts = render(template, event.values)
        positions.append({role: len(text) + start for role, start in starts.items()})
        text += sentence + " "
        has_one_person = list(event.kind.roles.values()).count("person") == 1
        previous = who if has_one_person else None
        if rng.random() < ASIDE_RATE:
            text += rng.choice(ASIDES).format(weather=draw(rng, "weather", persons)) + " "
            previous = None
    return text.strip(), positions


def make_paragraph(rng: random.Random, persons: list[Person], paragraph_id: str) -> dict:
    """Return one paragraph with its questions in SQuAD's layout; each has exactly one answer."""
    events = draw_events(rng, persons)
    context, positions = tell(rng, events, persons)
    askable = []
    for event, starts in zip(events, positions, strict=True):
        for template, role in event.kind.questions:
            rivals = [other for other in events if other.kind is event.kind]
            if role in starts and not any(other.answers(template, role, event) for other in rivals):
                question, _ = render(template, event.values)
                askable.append((question, str(event.values[role]), starts[role]))
    asked = rng.sample(askable, min(QUESTIONS_PER_PARAGRAPH, len(askable)))
    return {
        "context": context,
        "qas": [
            {
                "id": f"{paragraph_id}-{number}",
                "question": question,
                "answers": [{"text": text, "answer_start": start}],
            }
            for number, (question, text, start) in enumerate(asked)
        ],
    }


def make_squad(rng: random.Random, persons: list[Person], paragraphs: int, split: str) -> dict:
    """Return a data set of `paragraphs` paragraphs, all different, in SQuAD's nested layout."""
    made: dict[str, dict] = {}
    while len(made) < paragraphs:
        paragraph = make_paragraph(rng, persons, f"{split}-{len(made)}")
        if paragraph["qas"]:
            made.setdefault(paragraph["context"], paragraph)
    return {"version": "1.1", "data": [{"title": f"demo {split}", "paragraphs": list(made.values())}]}
