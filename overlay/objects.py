"""Reads commits, trees and blobs through GitPython.

GitPython is imported only where it is used: importing it takes a tenth of a second, and fails with a
traceback where git is missing, which `Git` reports better.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from overlay.errors import IntegrityError
from overlay.git import isolated_environment

if TYPE_CHECKING:
    from git import Repo


class Objects:
    """The objects of one repository."""

    def __init__(self, repo: "Repo") -> None:
        self._repo = repo

    def blob_id(self, commit: str, path: str) -> str | None:
        """Returns the id of the blob at `path` in `commit`, or None where there is none.

        Raises:
            IntegrityError: The commit or one of its trees is missing.
        """
        from git.exc import BadName, ODBError

        try:
            item = self._repo.commit(commit).tree / path
        except KeyError:
            return None
        except (BadName, ODBError, ValueError) as error:
            raise IntegrityError(
                f"{self._repo.git_dir} lacks objects of commit {commit}: {error}; "
                "delete that folder, then run 'python apply_patch.py fetch'"
            ) from None
        return item.hexsha if item.type == "blob" else None


def missing_objects(git_dir: Path, ids: Iterable[str]) -> list[str]:
    """Returns those of the objects that a repository lacks.

    Not git itself: asked for a missing object, it goes and looks for it at the remote of a partial clone.
    """
    from git import Repo
    from git.db import GitDB

    with Repo(git_dir, odbt=GitDB) as repo:
        return [name for name in dict.fromkeys(ids) if not repo.odb.has_object(bytes.fromhex(name))]


@contextmanager
def open_objects(git_dir: Path) -> Iterator[Objects]:
    """Opens a repository for reading its objects."""
    from git import Repo

    with Repo(git_dir) as repo:
        repo.git.update_environment(**isolated_environment(git_dir))
        yield Objects(repo)
