"""Fills the mirror of a pin's upstream from a URL or a path."""

import enum
from collections.abc import Callable, Sequence
from pathlib import Path

from overlay.errors import IntegrityError, UpstreamUnreachable
from overlay.files import discard
from overlay.folder import build_folder
from overlay.git import Git, GitError, clear_stale_locks, init_repository, last_words
from overlay.layout import Layout
from overlay.mirror import HISTORY_REF, Mirror, find_mirror
from overlay.objects import missing_objects
from overlay.pins import Pin
from overlay.runlock import run_lock

# A repository on disk is served by a git process of our own, which we allow what servers usually allow.
_LOCAL_SERVER = "git -c uploadpack.allowFilter=true -c uploadpack.allowAnySHA1InWant=true upload-pack"
_FILTER = "--filter=blob:none"
_LACKING = ("not our ref", "couldn't find remote ref", "bad object", "from promisor remote")


class Fetched(enum.StrEnum):
    """What a fetch did."""

    ALREADY_THERE = "already there"
    BUILT = "built from its folder"
    FETCHED = "fetched"


class _Source:
    """Where to fetch from."""

    def __init__(self, source: str, pin: Pin, progress: bool) -> None:
        path = Path(source).expanduser()
        self.is_path = path.exists()
        self.name = str(path.resolve()) if self.is_path else source
        self._pin = pin
        self._progress = progress

    @property
    def is_shallow(self) -> bool:
        """Whether it is known to have its history cut off."""
        git_dirs = [Path(self.name), Path(self.name, ".git")]
        return self.is_path and any((git_dir / "shallow").is_file() for git_dir in git_dirs)

    def fetch(self, git: Git, *args: str, objects: Sequence[str] = ()) -> None:
        """Runs `git fetch` from here.

        Raises:
            GitError: The server refused to give single objects.
            IntegrityError: The source has not what was asked for.
            UpstreamUnreachable: Anything else.
        """
        server = (f"--upload-pack={_LOCAL_SERVER}",) if self.is_path else ()
        try:
            git.fetch(self.name, *server, *args, objects=objects, progress=self._progress)
        except GitError as error:
            if "unadvertised object" in error.stderr:
                raise
            if any(words in error.stderr for words in _LACKING):
                raise self.lacks_commit() from None
            raise UpstreamUnreachable(
                f"cannot fetch pin {self._pin.name} from {self.name}: {last_words(error.stderr)}; give a "
                "copy of upstream with --from URL|PATH or UPSTREAM_URL, or use the pin 'embedded' (make demo)"
            ) from None

    def lacks_commit(self) -> IntegrityError:
        """Returns the error for a source without the pin's commit or files."""
        if self.is_shallow:
            why = "it is a shallow clone, so the commit may lie beyond its cut-off"
        else:
            why = "it is another repository, older than the pin, or a mirror that lacks files"
        return IntegrityError(
            f"{self.name} does not have all of commit {self._pin.commit} of pin {self._pin.name}: {why}; "
            f"give a full mirror of {self._pin.upstream} with --from"
        )


def fetch(
    pin: Pin,
    layout: Layout,
    source: str | None,
    *,
    history: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda note: None,
) -> Fetched:
    """Brings what a pin needs into the mirror of its upstream, so that `apply` needs no network.

    A new mirror is filled under a temporary name and renamed when it is complete; a fetch into an existing
    one is atomic by git's own means. A run that was killed is therefore either not visible or complete.

    Args:
        pin: The pin.
        layout: Where things lie.
        source: URL or path to fetch from; the pin's upstream by default.
        history: Fetch all commits of upstream's main branch, too (without file contents).
        progress: Show git's progress on standard error.
        say: Takes notes for the user.

    Returns:
        What was done.

    Raises:
        UpstreamUnreachable: The source cannot be read.
        IntegrityError: The source lacks the pin's commit, or history was asked for and the source is shallow.
    """
    if pin.upstream is None:
        build_folder(pin, layout)
        return Fetched.BUILT
    path = layout.mirror(pin)
    with run_lock(path.with_suffix(".lock"), str(path)):
        mirror = find_mirror(pin, layout)
        partial = path.with_suffix(".partial")
        discard(partial)
        if mirror.exists:
            clear_stale_locks(path)
            if mirror.is_ready and not history:
                return Fetched.ALREADY_THERE
        else:
            discard(path)
            mirror = Mirror(pin, init_repository(partial, bare=True))
        _fill(mirror, _Source(source or pin.upstream, pin, progress), history, say)
        if mirror.git.git_dir == partial:
            partial.rename(path)
    return Fetched.FETCHED


def _fill(mirror: Mirror, source: _Source, history: bool, say: Callable[[str], None]) -> None:
    if not mirror.has_commit:
        try:
            source.fetch(mirror.git, "--depth=1", _FILTER, mirror.pin.commit)
        except GitError:
            say(f"note: {source.name} gives no single commits; fetching its whole branch main, which is large")
            source.fetch(mirror.git, "--no-filter", f"+refs/heads/main:{HISTORY_REF}")
    if not mirror.has_commit:
        raise source.lacks_commit()
    mirror.git.run("update-ref", f"refs/pins/{mirror.pin.name}", mirror.pin.commit)
    if missing := mirror.missing_blobs():
        source.fetch(mirror.git, _FILTER, objects=missing)
    if mirror.missing_blobs():
        raise source.lacks_commit()
    if history:
        _fetch_history(mirror, source)


def fetch_blobs(
    mirror: Mirror, blobs: Sequence[str], source: str | None, say: Callable[[str], None] = lambda note: None
) -> None:
    """Brings file contents of upstream's history into a mirror.

    Args:
        mirror: A mirror with history.
        blobs: Ids of the contents.
        source: URL or path to fetch from; the pin's upstream by default.
        say: Takes notes for the user.

    Raises:
        UpstreamUnreachable: The source cannot be read.
        IntegrityError: It lacks some of them.
    """
    pin = mirror.pin
    if pin.upstream is None:
        raise IntegrityError(f"{mirror.git.git_dir} lacks {blobs[0]} of pin {pin.name}; delete that folder")
    say(f"note: fetching {len(blobs)} file contents of upstream's history")
    with run_lock(mirror.git.git_dir.with_suffix(".lock"), str(mirror.git.git_dir)):
        try:
            _Source(source or pin.upstream, pin, progress=False).fetch(mirror.git, _FILTER, objects=blobs)
        except UpstreamUnreachable as error:
            raise UpstreamUnreachable(
                f"{mirror.git.git_dir} lacks {len(blobs)} file contents of upstream's history ({blobs[0]}, …): {error}"
            ) from None
        if left := missing_objects(mirror.git.git_dir, blobs):
            raise IntegrityError(
                f"{source or pin.upstream} does not have {len(left)} file contents of upstream's history "
                f"({left[0]}, …); give a full clone of {pin.upstream} with --from"
            )


def _fetch_history(mirror: Mirror, source: _Source) -> None:
    if not source.is_shallow:
        deepen = ("--unshallow",) if mirror.is_shallow else ()
        source.fetch(mirror.git, *deepen, _FILTER, f"+refs/heads/main:{HISTORY_REF}", mirror.pin.commit)
    if source.is_shallow or mirror.is_shallow:
        raise IntegrityError(
            f"{source.name} is a shallow clone: it has no full history to fetch; give a full one with --from"
        )
