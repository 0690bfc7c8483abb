"""Learning from a teacher (inventory 5.6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from nncf_transformers.recipe.modifiers.base import Modifier
from nncf_transformers.recipe.modifiers.fields import End, Frequency, OptionalTexts, Start, number


@dataclass(frozen=True, kw_only=True)
class DistillationModifier(Modifier):
    """Learning from a teacher's logits: (1 - hardness) task + hardness teacher."""

    start_epoch: Start = -1.0
    end_epoch: End = -1.0
    hardness: Annotated[float, number(low=0, high=1)] = 0.5
    temperature: Annotated[float, number(above=0, high=1e6)] = 2.0
    distill_output_keys: OptionalTexts = None
    teacher_input_keys: OptionalTexts = None
    update_frequency: Frequency = -1.0

    idle_fields: ClassVar[Mapping[str, Any]] = {"update_frequency": -1.0}
    ends_with_stage: ClassVar[bool] = True
