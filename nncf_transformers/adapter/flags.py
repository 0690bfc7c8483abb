"""The flags for adapters, and what they say when put together."""

from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from nncf_transformers.errors import UsageError

if TYPE_CHECKING:
    from adapters import AdapterConfig

    from nncf_transformers.adapter.folder import AdapterFolder

DEFAULT_CONFIG = "seq_bn"


def _flag(text: str) -> Any:
    return field(default=None, metadata={"help": text})


@dataclass
class AdapterFlags:
    """What the user asked for; they are the flags of AdapterHub's example scripts, and ``--adapter_name``."""

    train_adapter: bool = field(
        default=False, metadata={"help": "Train an adapter on the frozen model instead of the model."}
    )
    adapter_config: str | None = _flag(
        f"What kind of adapter: a name such as {DEFAULT_CONFIG}, lora or double_seq_bn[reduction_factor=8], several "
        "joined by |, or a JSON file."
    )
    adapter_name: str | None = _flag("Name of the adapter and of its folder; without it, the name of the data set.")
    load_adapter: str | None = _flag("Start from this adapter: its folder, or the output folder of an earlier run.")
    load_lang_adapter: str | None = _flag("Stack the adapter on this (language) adapter, which is not trained.")
    lang_adapter_config: str | None = _flag("Kind of the language adapter; its folder says it, too.")

    def check_adapter(self) -> "AdapterPlan | None":
        """Check the flags before any work is done.

        Returns:
            What to do, or None for no adapter.

        Raises:
            UsageError: in one line, what is wrong with which flag.
        """
        if not self.train_adapter:
            for flag in fields(AdapterFlags):
                if getattr(self, flag.name):
                    raise UsageError(f"--{flag.name}: has no effect without --train_adapter; add it")
            return None
        check_library()
        from nncf_transformers.adapter.config import read_config
        from nncf_transformers.adapter.folder import check_name, find_adapter

        if self.lang_adapter_config and not self.load_lang_adapter:
            raise UsageError("--lang_adapter_config: names no adapter to load; add --load_lang_adapter DIR")
        return AdapterPlan(
            name=check_name("--adapter_name", self.adapter_name) if self.adapter_name is not None else None,
            config=read_config("--adapter_config", self.adapter_config or DEFAULT_CONFIG),
            config_given=self.adapter_config is not None,
            task=find_adapter("--load_adapter", self.load_adapter) if self.load_adapter else None,
            language=find_adapter("--load_lang_adapter", self.load_lang_adapter) if self.load_lang_adapter else None,
            language_config=read_config("--lang_adapter_config", self.lang_adapter_config)
            if self.lang_adapter_config
            else None,
        )


@dataclass(frozen=True)
class AdapterPlan:
    """The flags, checked and read.

    Attributes:
        name: of the adapter to train; None for the default, which depends on the data set.
        config: of an adapter made anew.
        config_given: whether ``config`` is the user's or the default.
        task: an adapter to start from.
        language: an adapter to stack the trained one on.
        language_config: what the user takes ``language`` for.
    """

    name: str | None
    config: "AdapterConfig"
    config_given: bool
    task: "AdapterFolder | None"
    language: "AdapterFolder | None"
    language_config: "AdapterConfig | None"


def check_library(what: str = "--train_adapter") -> None:
    """Refuse adapters where the library is missing, or is made for another version of transformers.

    Args:
        what: needs them; a flag, a script or a file.

    Raises:
        UsageError: what is here, what is needed, and which pin has it.
    """
    from packaging.requirements import Requirement

    remedy = "use the pin that it is made for (make: PIN=v4.57)"
    try:
        ours, wanted = version("adapters"), map(Requirement, requires("adapters") or ())
    except PackageNotFoundError:
        raise UsageError(f"{what}: the library adapters is not installed here; {remedy}") from None
    here = version("transformers")
    for requirement in wanted:
        if requirement.name == "transformers" and not requirement.specifier.contains(here, prereleases=True):
            raise UsageError(
                f"{what}: adapters {ours} works with transformers {requirement.specifier}, this is {here}; {remedy}"
            )
