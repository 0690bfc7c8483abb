"""The words of the demo's small world, and random draws from them. All names are invented."""

import itertools
import random
from dataclasses import dataclass


def words(text: str) -> tuple[str, ...]:
    """Split a line of words."""
    return tuple(text.split())


def join_each(stems: str, endings: str, count: int) -> tuple[str, ...]:
    """Put each stem before `count` of the endings, taking the endings in turn."""
    turn = itertools.cycle(words(endings))
    return tuple(stem + next(turn) for stem in words(stems) for _ in range(count))


FEMALE_NAMES = words(
    "Mira Ada Berit Clara Dora Elin Freya Greta Hanna Ida Jana Karin Lena Marta Nora Olga Petra Rita Signe "
    "Tilda Ulla Vera Wilma Zelda"
)
MALE_NAMES = words(
    "Tomas Anders Boris Carl David Emil Finn Gustav Henrik Ivan Jonas Klaus Lars Martin Nils Oskar Pavel "
    "Rolf Stefan Theo Urban Viktor Walter Yannis"
)
FAMILY_NAMES = join_each(
    "Hol Berg Lind Sand Nor Ek Gran Dal Strand Wester Oster Lun Hag Stein Fors Sol Ny Sten Al Bro",
    "man qvist gren vik stad sen dahl mark ner feldt holm",
    count=3,
)
TOWNS = join_each(
    "Kar Var Mos Tel Ryd Hem Skar Bol Ten Grim Fal Ulv Jor Lys Kop Rav",
    "borg ville minster haven ford by hampton",
    count=3,
)
MONTHS = words("January February March April May June July August September October November December")

WORDS = {
    "shop": words("bakery bookshop teahouse pharmacy tailor gallery brewery pottery florist cinema"),
    "goods": words("lamps chairs apples carpets clocks candles mirrors baskets kettles violins hats eggs"),
    "job": words("teacher nurse carpenter pilot librarian cook surgeon gardener painter plumber translator guard"),
    "spot": words("station harbour museum hospital school library castle theatre airport market"),
    "topic": words("whales trains medicine bridges winter chess dragons volcanoes bees painting sailing cheese"),
    "thing": words("fence door boat kitchen cart bench gate roof table ladder"),
    "colour": words("red green blue yellow white black purple orange grey brown"),
    "contest": words("marathon regatta tournament quiz lottery race festival derby"),
    "gift": words("watch ring scarf puppy camera necklace guitar bicycle kite coat"),
    "vehicle": words("train ferry bus tram lorry sledge carriage balloon"),
    "weather": words("rainy sunny windy cold foggy warm"),
}


@dataclass(frozen=True)
class Person:
    """A full name, and the pronoun that stands for it at the start of a sentence."""

    first: str
    family: str
    pronoun: str

    def __str__(self) -> str:
        return f"{self.first} {self.family}"


def people() -> list[Person]:
    """Return every full name there is, in a fixed order."""
    pronouns = dict.fromkeys(FEMALE_NAMES, "She") | dict.fromkeys(MALE_NAMES, "He")
    return [Person(first, family, pronoun) for first, pronoun in pronouns.items() for family in FAMILY_NAMES]


def draw(rng: random.Random, kind: str, persons: list[Person]) -> str | Person:
    """Draw a value of a kind: a key of WORDS, or person, town, year, date, count."""
    if kind == "person":
        return rng.choice(persons)
    if kind == "town":
        return rng.choice(TOWNS)
    if kind == "year":
        return str(rng.randint(1900, 1999))
    if kind == "date":
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    if kind == "count":
        return str(rng.randint(2, 99))
    return rng.choice(WORDS[kind])
