"""Learning from a teacher: ``distillation``, which NNCF 2 called ``knowledge_distillation`` (inventory 1.6 and 2.3)."""

from nncf_transformers.config.legacy import LegacyFile
from nncf_transformers.config.model import DISTILLATION_LOSSES, TEACHER_DTYPES, DistillationConfig
from nncf_transformers.config.section import Section, given

LEGACY_LOSSES = ("mse", "softmax")
LEGACY_TEMPERATURE = 1.0


def read_distillation(section: Section) -> DistillationConfig:
    """Read one ``{"algorithm": "distillation", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, or a setting that the loss does not use.
    """
    with section:
        section.take("algorithm")
        loss = section.take_choice("loss", DISTILLATION_LOSSES) or DistillationConfig.loss
        settings = given(
            loss=loss,
            teacher=_take_name(section, "teacher", 'a folder, a model of the hub or "self"'),
            weight=section.take_number("weight", low=0, high=1),
            temperature=_take_temperature(section, loss),
            scale=section.take_number("scale", low=0),
            hidden_weight=section.take_number("hidden_weight", low=0),
            teacher_dtype=section.take_choice("teacher_dtype", TEACHER_DTYPES),
            cache=_take_name(section, "cache", "a folder"),
        )
    if loss != "kl":
        section.refuse_idle(["weight"], 'unless "loss" is "kl"')
    if loss == "kl":
        section.refuse_idle(["scale"], 'unless "loss" is "mse" or "softmax"')
    if loss == "mse":
        section.refuse_idle(["temperature"], 'unless "loss" is "kl" or "softmax"')
    config = DistillationConfig(place=section.place, **settings)
    if config.cache is not None and config.hidden_weight > 0:
        raise section.error(
            "cache", "keeps logits, but hidden_weight needs the teacher's hidden states; remove one of the two"
        )
    return config


def read_legacy_distillation(section: Section, file: LegacyFile) -> DistillationConfig:
    """Read one legacy ``{"algorithm": "knowledge_distillation", …}`` object.

    Raises:
        ConfigError: an unknown key, a wrong type, a bad value, no ``type``, or a temperature with ``mse``.
    """
    with section:
        section.take("algorithm")
        loss = section.take_choice("type", LEGACY_LOSSES)
        temperature = section.take_number("temperature", above=0)
        scale = section.take_number("scale", low=0)
    if loss is None:
        raise section.missing("type", '"mse" or "softmax"')
    if loss == "mse":
        section.refuse_idle(["temperature"], 'unless "type" is "softmax"')
    return DistillationConfig(
        place=section.place,
        teacher="self",
        loss=loss,
        temperature=LEGACY_TEMPERATURE if temperature is None else temperature,
        **given(scale=scale),
    )


def _take_temperature(section: Section, loss: str) -> float | None:
    # Below 1 the teacher's answer would get sharper, the opposite of what a temperature is for; the original of "kl"
    # refused that, the one of "softmax" did not.
    return section.take_number("temperature", low=1) if loss == "kl" else section.take_number("temperature", above=0)


def _take_name(section: Section, key: str, what: str) -> str | None:
    name = section.take_string(key)
    if name is not None and not name.strip():
        raise section.error(key, f"is empty; give {what}, or leave the key out")
    return name
