"""SparseML's recipes: read, checked, composed and written, without SparseML.

``load_recipe`` reads what ``--recipe`` names; :class:`Recipe` holds its modifiers::

    recipe = load_recipe("nncf_configs/recipes/bert-base-12layers_prune80.md", "num_epochs=10")
    for line in recipe.warnings:
        logger.warning(line)
    for modifier in recipe.modifiers:
        ...

Importing this package loads neither torch nor NNCF.
"""

from nncf_transformers.recipe.modifiers import MODIFIERS, Modifier
from nncf_transformers.recipe.recipe import Recipe, Stage, compose, load_recipe, parse_recipe
from nncf_transformers.recipe.source import parse_arguments

__all__ = [
    "MODIFIERS",
    "Modifier",
    "Recipe",
    "Stage",
    "compose",
    "load_recipe",
    "parse_arguments",
    "parse_recipe",
]
