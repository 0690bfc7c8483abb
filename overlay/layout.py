"""Where things lie: the project's folders and the user's cache."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from overlay.pins import Pin


@dataclass(frozen=True)
class Layout:
    """The two folders everything else is found from.

    Attributes:
        project: Folder that holds `pins.toml`.
        cache: Folder of the mirrors; several clones of the project share it.
    """

    project: Path
    cache: Path

    def mirror(self, pin: Pin) -> Path:
        """Bare repository for the pin's upstream; pins of one upstream share it."""
        if pin.upstream is None:
            return self.cache / "mirrors" / f"tree-{pin.tree}.git".replace("/", "-")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", pin.upstream.split("://")[-1]).strip("-")
        digest = hashlib.sha256(pin.upstream.encode()).hexdigest()[:8]
        return self.cache / "mirrors" / f"{readable}-{digest}.git"

    def series(self, pin: Pin) -> Path:
        """Folder of the pin's patches."""
        return self.project / pin.patches

    def work_tree(self, pin: Pin) -> Path:
        """The patched checkout."""
        return self.project / "build" / pin.name

    def run_lock(self, pin: Pin) -> Path:
        """Lock file of the commands that change the work tree or the series of the pin."""
        return self.project / "build" / f".{pin.name}.lock"

    @property
    def rebase(self) -> Path:
        """Files of a rebase that waits for the user."""
        return self.project / "build" / "rebase"

    @property
    def rebase_lock(self) -> Path:
        """Lock file of the commands that make a new pin."""
        return self.project / "build" / ".rebase.lock"

    def shown(self, path: Path) -> str:
        """Returns the path as error texts show it: relative to the project where it lies inside."""
        return str(path.relative_to(self.project)) if path.is_relative_to(self.project) else str(path)


def default_cache() -> Path:
    """Returns the cache folder that the platform gives a user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("nncf-transformers-overlay", appauthor=False))
