"""What the scripts see as the module ``evaluate``."""

import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from nncf_transformers.data.hub import from_hub

logger = logging.getLogger(__name__)

METRICS = Path(__file__).resolve().parent.parent / "metrics"

# The public modules live in a name space of their own, under which they may be asked for, too.
_PUBLIC_PREFIX = "evaluate-metric/"


def shipped_metrics() -> list[str]:
    """Names of the metrics that come with this package."""
    return sorted(folder.name for folder in METRICS.iterdir() if (folder / f"{folder.name}.py").is_file())


class Evaluate:
    """The module ``evaluate``, except that the metrics which we ship do not come from the hub.

    The module itself is imported at the first use, since it takes seconds.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(_module(), name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(_module()), "load"})

    def load(self, path: str, *args: Any, **options: Any) -> Any:
        """``evaluate.load``: a metric of ours if there is one of that name, whatever the hub has; else the
        original's.

        Args:
            path: The metric's name, or a folder with a metric module.
            *args: Positional arguments of the original; the first is the configuration (GLUE: the task).
            **options: Its keyword arguments.

        Raises:
            UnreachableError: The metric is on a hub that cannot be reached.
        """
        module = _module()
        name = path.removeprefix(_PUBLIC_PREFIX)
        if name in shipped_metrics():
            logger.info("metric %r: the module that comes with nncf_transformers is used", name)
            options.pop("revision", None)  # names a version of the hub's module
            return module.load(str(METRICS / name), *args, **options)
        if Path(path).exists():
            return module.load(path, *args, **options)
        remedy = f"run once where the hub is in reach, or use one that needs none: {', '.join(shipped_metrics())}"
        return from_hub(
            lambda: module.load(path, *args, **options),
            module.config,
            "HF_EVALUATE_OFFLINE",
            f"the metric {path!r}",
            remedy,
        )


def _module() -> ModuleType:
    return importlib.import_module("evaluate")


evaluate = Evaluate()
