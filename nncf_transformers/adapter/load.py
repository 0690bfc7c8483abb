"""Load a base with a saved adapter in it, for what no script of upstream's does."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from nncf_transformers.adapter.folder import AdapterFolder
from nncf_transformers.errors import IntegrityError, UsageError
from nncf_transformers.loading import LOADING_LOGGER, restore_if_compressed, without_quantizers
from nncf_transformers.structure import load_smaller_models

logger = logging.getLogger(__name__)


def model_class(folder: AdapterFolder) -> Any:
    """The class of the model that an adapter was trained in.

    Raises:
        IntegrityError: ``adapter_config.json`` names none that transformers has.
    """
    name = folder.content.get("model_class")
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, transformers.PreTrainedModel):
        raise IntegrityError(f"{folder.path}: its model_class, {name!r}, is no model of transformers; copy it again")
    return found


def check_place(base: str) -> None:
    """Refuse what can be neither a folder nor a name on the hub.

    Raises:
        UsageError: naming it.
    """
    if not Path(base).is_dir() and (base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).exists()):
        raise UsageError(f"--model {base}: is no folder; name the folder of a model, or a model of the hub")


def save_tokenizer(places: Iterable[str], target: Path) -> None:
    """Save the tokenizer of the first place that has one to the folder ``target``; nothing where none has."""
    for place in places:
        if any(Path(place).glob("tokenizer*")) or any(Path(place).glob("vocab*")):
            transformers.AutoTokenizer.from_pretrained(place).save_pretrained(target)
            return


def load_base(folder: AdapterFolder, base: str) -> Any:
    """Load the model that an adapter is for, without quantizers.

    Raises:
        UsageError: there is no such model.
    """
    check_place(base)
    load_smaller_models()
    LOADING_LOGGER.addFilter(without_quantizers)
    try:
        return model_class(folder).from_pretrained(base)
    except OSError as error:
        if Path(base).exists() or base.startswith((".", "/")):
            raise UsageError(f"--model {base}: is no model's folder ({str(error).splitlines()[0]})") from error
        raise
    finally:
        LOADING_LOGGER.removeFilter(without_quantizers)


def load_with_adapter(folder: AdapterFolder, base: str) -> Any:
    """Load a base, INT8 or not, with an adapter and its head in it, in evaluation mode.

    Raises:
        UsageError: the adapter is for another model.
        IntegrityError: a file is damaged.
    """
    from nncf_transformers.adapter.flags import AdapterPlan
    from nncf_transformers.adapter.model import install

    model = load_base(folder, base)
    plan = AdapterPlan(None, folder.content["config"], False, folder, None, None)
    install(model, plan, default_name=folder.name, trains=False)
    restore_if_compressed(model, base)
    return model.eval()
