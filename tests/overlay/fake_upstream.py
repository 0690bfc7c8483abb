"""A project for tests: its upstream is a small repository, and the real command line runs on it."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import apply_patch  # noqa: E402

RUN_ONE = "examples/one/run_one.py"
TRAINER_ONE = "examples/one/trainer_one.py"
RUN_TWO = "examples/two/run_two.py"
SCRIPT = """\
import logging

from library import Trainer, TrainingArguments, check_min_version

check_min_version("4.0.0")

{name} = 1
SECOND = 2

logger = logging.getLogger(__name__)


class Arguments:
    first = 1
    second = 2
    third = 3
    fourth = 4


def main():
    args = parse()
    trainer = Trainer(args)
    trainer.train()


main()
"""
IMPORT = "from runtime import Trainer\n"
LOGGER = "logger = logging.getLogger(__name__)\n"
PINS = """\
default = "v1"

[pins.v1]
upstream = "{upstream}"
commit = "{commit}"
date = 2024-05-01
library = "library==1.0"
patches = "patches/v1"
checkout = ["examples/one", "examples/two"]

[pins.v1.scripts]
one = "examples/one/run_one.py"
two = "examples/two/run_two.py"

[pins.local]
tree = "local"
commit = "{local}"
date = 2024-05-01
library = "library==1.0"
patches = "patches/local"

[pins.local.scripts]
one = "run_one.py"
"""


@dataclass(frozen=True)
class Result:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Upstream:
    """The fake upstream: a bare repository, and its commits from old to new."""

    path: Path
    commits: tuple[str, ...]

    @property
    def pinned(self) -> str:
        """The commit that the projects pin: neither the first nor the newest."""
        return self.commits[1]


@dataclass(frozen=True)
class Project:
    """A project folder with its own cache."""

    root: Path
    cache: Path
    upstream: Upstream

    @property
    def tree(self) -> Path:
        """Work tree of the default pin."""
        return self.root / "build" / "v1"

    @property
    def series(self) -> Path:
        """Patch folder of the default pin."""
        return self.root / "patches" / "v1"

    @property
    def mirror(self) -> Path:
        """Mirror of the upstream."""
        return next(path for path in (self.cache / "mirrors").glob("*.git") if "tree-" not in path.name)

    def run(self, command: str, *args: str) -> Result:
        """Runs a command in this process, which is quick."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = apply_patch.main([command, *self._folders(), *args])
        return Result(code, out.getvalue(), err.getvalue())

    def cli(self, command: str, *args: str, **env: str) -> Result:
        """Runs a command as the user does."""
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "apply_patch.py"), command, *self._folders(), *args],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def edit(self, path: str, anchor: str = LOGGER, added: str = IMPORT) -> None:
        """Inserts a line after another in a file of the work tree."""
        file = self.tree / path
        text = file.read_text()
        assert anchor in text
        file.write_text(text.replace(anchor, anchor + added, 1))

    def git(self, *args: str) -> str:
        """Runs git in the work tree, with an identity."""
        return git(self.tree, *args)

    def _folders(self) -> list[str]:
        return ["--project", str(self.root), "--cache", str(self.cache)]


def git(folder: Path, *args: str) -> str:
    """Runs git as a user would; returns its output."""
    identity = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgSign=false")
    done = subprocess.run(["git", *identity, *args], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    """Writes a file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def copy_project(source: Project, folder: Path) -> Project:
    """Copies a project that is not applied, with its cache."""
    shutil.copytree(source.root, folder / "project", symlinks=True)
    shutil.copytree(source.cache, folder / "cache", symlinks=True)
    return Project(folder / "project", folder / "cache", source.upstream)
