"""The cached upstream: a bare repository that holds what the pins of one upstream need."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from overlay.errors import IntegrityError, OverlayError
from overlay.git import Git
from overlay.layout import Layout
from overlay.objects import missing_objects
from overlay.pins import Pin

HISTORY_REF = "refs/upstream/main"


@dataclass(frozen=True)
class Mirror:
    """The mirror of a pin's upstream, seen from that pin."""

    pin: Pin
    git: Git

    @property
    def exists(self) -> bool:
        """Whether anything was fetched from this upstream."""
        return (self.git.git_dir / "HEAD").is_file()

    @property
    def is_shallow(self) -> bool:
        """Whether history is cut off, as it is unless it was fetched with `--history`."""
        return (self.git.git_dir / "shallow").is_file()

    @property
    def has_commit(self) -> bool:
        """Whether the pin's commit is there."""
        return self.git.succeeds("cat-file", "-e", f"{self.pin.commit}^{{commit}}")

    @property
    def is_ready(self) -> bool:
        """Whether the pin can be applied without any network."""
        return self.exists and self.has_commit and not self.missing_blobs()

    def missing_blobs(self) -> list[str]:
        """Returns the ids of the blobs that the pin's work tree needs and the mirror lacks."""
        # Not rev-list --missing=print: it passes over a commit that does not touch the paths, once it has a parent.
        records = self.git.records("ls-tree", "-r", "-z", "--full-tree", self.pin.commit, "--", *self.needed_paths())
        return missing_objects(self.git.git_dir, (record.split()[2] for record in records))

    def needed_paths(self) -> list[str]:
        """Returns the checked-out paths, with git's own files above them, which git reads wherever it works.

        Raises:
            IntegrityError: The commit has not all the paths of the pin.
        """
        paths = list(self.pin.checkout)
        present = self._paths_in_commit(paths)
        if absent := [path for path in paths if path not in present]:
            raise IntegrityError(
                f"pin {self.pin.name}: commit {self.pin.commit} has no {absent[0]!r}; "
                "correct 'checkout' or 'commit' in pins.toml"
            )
        folders = {parent for path in paths for parent in PurePosixPath(path).parents}
        own = [str(folder / name) for folder in sorted(folders) for name in (".gitattributes", ".gitignore")]
        return paths + self._paths_in_commit(own)

    def _paths_in_commit(self, paths: list[str]) -> list[str]:
        if not paths:
            return []
        return self.git.records("ls-tree", "-z", "--name-only", "--full-tree", self.pin.commit, "--", *paths)


def find_mirror(pin: Pin, layout: Layout) -> Mirror:
    """Returns the mirror of a pin, which need not exist."""
    return Mirror(pin, Git(layout.mirror(pin)))


def require_mirror(pin: Pin, layout: Layout) -> Mirror:
    """Returns the mirror of a pin, ready to be applied from.

    A pin that is built from a folder of the project needs no fetching, so its mirror is brought up to
    date here.

    Raises:
        OverlayError: The pin was not fetched yet.
        IntegrityError: The mirror is there but lacks something.
    """
    if pin.tree is not None:
        from overlay.folder import build_folder

        return build_folder(pin, layout)
    mirror = find_mirror(pin, layout)
    fetch = f"'python apply_patch.py fetch --pin {pin.name}'"
    if not mirror.exists or not mirror.has_commit:
        raise OverlayError(f"pin {pin.name} is not fetched: {mirror.git.git_dir} lacks {pin.commit}; run {fetch}")
    if missing := mirror.missing_blobs():
        raise IntegrityError(f"{mirror.git.git_dir} lacks {len(missing)} files of pin {pin.name}; run {fetch}")
    return mirror
