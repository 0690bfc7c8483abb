"""Save adapters and load them again, each whole or not at all."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import transformers
from adapters import AdapterConfig
from adapters.loading import AdapterLoader, PredictionHeadLoader, WeightsLoader
from adapters.utils import CONFIG_NAME, HEAD_CONFIG_NAME, SAFE_HEAD_WEIGHTS_NAME, SETUP_CONFIG_NAME
from safetensors import SafetensorError

from nncf_transformers.adapter.folder import AdapterFolder, saved_in
from nncf_transformers.adapter.keys import adapter_keys, head_keys, quietly, unique_names
from nncf_transformers.checkpoint import write_text
from nncf_transformers.errors import IntegrityError, UsageError

logger = logging.getLogger(__name__)

# The key in adapter_setup.json for the model that the adapter was trained on.
_BASE_KEY = "base_model"


@dataclass(frozen=True)
class Base:
    """The model that an adapter was trained on.

    Attributes:
        name: folder or hub name that it was loaded from.
        sha256: of its parameters, those of its head left out.
    """

    name: str
    sha256: str


def save(model: Any, folder: str | os.PathLike[str]) -> None:
    """Write the model's adapters, each with the head and whole or not at all, and how they are stacked.

    Args:
        model: with an active adapter.
        folder: made if missing. ``<name>/adapter_config.json``, ``adapter.safetensors``, ``head_config.json`` and
            ``model_head.safetensors`` are written for each adapter; the last two only where the head has parameters of
            its own, which a language model's often has not.
    """
    folder = Path(folder)
    check_free(folder, model.adapters_config)
    folder.mkdir(parents=True, exist_ok=True)
    for name in model.adapters_config:
        temporary, old = folder / f".{name}.{os.getpid()}", folder / f".{name}.{os.getpid()}.old"
        loaders = _loaders(model, head=bool(head_keys(model)))
        try:
            with quietly():
                for loader in loaders:
                    loader.save(str(temporary), name)
            _put_in_place(temporary, folder / name, old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    base: Base | None = getattr(model, "nncf_adapter_base", None)
    setup = {
        "adapter_setup": model.active_adapters.to_dict(),
        "head_setup": None,
        "version": f"adapters.{adapters.__version__}",
        _BASE_KEY: vars(base) if base is not None else None,
    }
    write_text(folder / SETUP_CONFIG_NAME, json.dumps(setup, indent=2) + "\n")


def check_free(folder: Path, names: Iterable[str]) -> None:
    """Refuse to replace anything else than an adapter by an adapter of its name.

    Args:
        folder: where adapters are to be saved; it need not exist.
        names: of the adapters.

    Raises:
        UsageError: something else has the name of an adapter.
    """
    for name in names:
        place = folder / name
        if place.exists() and not (place / CONFIG_NAME).is_file():
            raise UsageError(
                f"{place}: is no adapter, and the adapter {name!r} is to be saved there; pass another --output_dir or "
                "--adapter_name"
            )


def _put_in_place(new: Path, place: Path, old: Path) -> None:
    """Move a new folder to the place of an old one, which comes back if that fails."""
    if place.is_dir():
        place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        if old.is_dir():
            old.rename(place)
        raise


def save_base(model: Any, folder: Path) -> None:
    """Write the frozen model itself, without adapters and with the head as it is now, if it is in no folder."""
    belongs = adapter_keys(model)
    state = {key: value for key, value in model.state_dict().items() if not belongs(key)}
    # The class below the library's, which would write the adapters into config.json.
    transformers.PreTrainedModel.save_pretrained(model, folder, state_dict=state)
    logger.info("the model that the adapter belongs to is in no folder yet: wrote it to %s", folder)


def check_base(model: Any, folder: str | os.PathLike[str]) -> None:
    """Refuse to resume on another model than the one that a checkpoint's adapter was trained on.

    Raises:
        UsageError: the weights of the frozen model differ.
    """
    base = base_of(Path(folder))
    if base is not None and base.sha256 != model.nncf_adapter_base.sha256:
        raise UsageError(
            f"{folder}: its adapter was trained on {base.name or 'a model with other random weights'}, whose weights "
            "differ from this model's; resume with the model of its beginning, or start anew with --load_adapter"
        )


def base_of(folder: Path) -> Base | None:
    """The model that the adapters of a run were trained on; None where nothing says it, as for one from elsewhere.

    Raises:
        IntegrityError: the file that says it is damaged.
    """
    path = folder / SETUP_CONFIG_NAME
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8")).get(_BASE_KEY)
        return None if base is None else Base(str(base["name"]), str(base["sha256"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: damaged ({error!r}); copy it again") from error


def load_again(model: Any, folder: str | os.PathLike[str]) -> None:
    """Give the model's adapters and its head the values that :func:`save` wrote.

    Raises:
        UsageError: the folder has no such adapters.
        IntegrityError: a file is damaged.
    """
    found = {item.path.name: item for item in saved_in(Path(folder))}
    missing = [name for name in model.adapters_config if name not in found]
    if missing:
        raise UsageError(
            f"{folder}: the adapter {missing[0]!r} is not in it, so it cannot be resumed; it has "
            f"{', '.join(found) or 'none'}"
        )
    for name in model.adapters_config:
        if AdapterConfig.load(found[name].content["config"]) != model.adapters_config.get(name):
            raise UsageError(
                f"{found[name].path}: its adapter has another configuration than this training's; resume with the "
                "flags of its beginning"
            )
        load_weights(model, found[name], name, head=bool(head_keys(model)))


def load_weights(model: Any, folder: AdapterFolder, name: str, *, head: bool) -> None:
    """Load an adapter, adding it if the model has none of that name, and the head if there is one for this model.

    Raises:
        IntegrityError: the weights are not those of this adapter in this model.
    """
    info: dict[str, Any] = {}
    try:
        with quietly():
            for loader in _loaders(model, head=head):
                loader.load(str(folder.path), load_as=name, loading_info=info)
    except (OSError, SafetensorError, RuntimeError, KeyError, AssertionError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"{folder.path}: cannot be loaded into this model ({first_line(error)}); copy the adapter again, or use "
            "the model that it was trained on"
        ) from error
    for kind, what in (("missing_keys", "lack"), ("unexpected_keys", "have, but the model has not,")):
        if keys := info.get(kind):
            raise IntegrityError(
                f"{folder.path}: the weights {what} {keys[0]}; it is of a model with another number of layers or "
                "another head"
            )


def head_class(folder: AdapterFolder) -> str | None:
    """The class of the model whose head was saved with an adapter."""
    path = folder.path / HEAD_CONFIG_NAME
    if not path.is_file() or not any(
        (folder.path / file).is_file() for file in (SAFE_HEAD_WEIGHTS_NAME, "pytorch_model_head.bin")
    ):
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["model_class"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: damaged ({error!r}); copy the adapter again") from error


class _AdapterLoader(AdapterLoader):
    """The library's, for parameters that it would write several times, which safetensors refuses."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, use_safetensors=True)

    def filter_func(self, adapter_name: str) -> Callable[[str], bool]:
        belongs, unique = super().filter_func(adapter_name), unique_names(self.model)
        return lambda key: belongs(key) and key in unique

    def rename_func(self, old_name: str, new_name: str) -> Callable[[str], str]:
        rename = super().rename_func(old_name, new_name)
        # The library forgets these.
        old, new = (f".prompt_tunings.{name}." for name in (old_name, new_name))
        return lambda key: rename(key).replace(old, new)


class _HeadLoader(PredictionHeadLoader):
    """The library's, for the parameters of :func:`head_keys`: it takes quantizers and embeddings for a head's, too."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, error_on_missing=False, use_safetensors=True)

    def filter_func(self, head_name: str | None) -> Callable[[str], bool]:
        return head_keys(self.model).__contains__


def _loaders(model: Any, head: bool) -> list[WeightsLoader]:
    return [_AdapterLoader(model), *([_HeadLoader(model)] if head else [])]


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(line.strip() for line in lines[:2]) if lines else type(error).__name__
