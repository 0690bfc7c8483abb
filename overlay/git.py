"""git as a subprocess, cut off from the caller's configuration and from every other repository.

Everything the package asks of git goes through `Git`, except for reading objects (see `objects`).
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overlay.errors import OverlayError

COMMITTER = "NNCF Transformers overlay"
COMMITTER_EMAIL = "overlay@nncf-transformers.invalid"

# What would point git at another repository than the one we name (`git rev-parse --local-env-vars`).
_REPOSITORY_VARIABLES = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}
_CONFIG = """\
[core]
\trepositoryFormatVersion = 1
\tbare = {bare}
\tlogAllRefUpdates = false
[extensions]
\tpartialClone = upstream
[remote "upstream"]
\tpromisor = true
\tpartialCloneFilter = blob:none
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
_STALE_LOCKS = ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*", "objects/??/tmp_obj_*")


class GitError(OverlayError):
    """A git command failed.

    Attributes:
        stderr: All that git said.
    """

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(message)
        self.stderr = stderr


@dataclass(frozen=True)
class Git:
    """Runs git commands on one repository.

    Attributes:
        git_dir: The repository.
        work_tree: Its work tree, for commands that need one.
        index: Index file to use in place of the repository's own.
    """

    git_dir: Path
    work_tree: Path | None = None
    index: Path | None = None

    def with_index(self, index: Path) -> "Git":
        """Returns a runner for the same repository with another index file."""
        return replace(self, index=index)

    def run(self, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
        """Runs a git command that stays on this machine.

        Args:
            *args: The command and its arguments.
            stdin: What it reads.
            env: Further environment variables, e.g. author and date of a commit.

        Returns:
            What it wrote to standard output.

        Raises:
            GitError: It failed.
        """
        done = self._start(args, stdin, {**isolated_environment(self.git_dir), **(env or {})})
        if done.returncode:
            raise self._error(args[0], done)
        return done.stdout

    def text(self, *args: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
        """Like `run`, for one value: decoded, without the line end."""
        return self.run(*args, stdin=stdin, env=env).decode("utf-8", "surrogateescape").rstrip("\n")

    def records(self, *args: str, stdin: bytes = b"") -> list[str]:
        """Like `run`, for a command given `-z`: the NUL-separated records."""
        return self.text(*args, stdin=stdin).split("\0")[:-1]

    def succeeds(self, *args: str) -> bool:
        """Runs a command that answers by its exit status."""
        return self._start(args, b"", isolated_environment(self.git_dir)).returncode == 0

    def answer(self, *args: str) -> tuple[int, bytes]:
        """Runs a command whose exit status is a small number that it answers; returns it with the output.

        Raises:
            GitError: It failed.
        """
        done = self._start(args, b"", isolated_environment(self.git_dir))
        if not 0 <= done.returncode < 128:
            raise self._error(args[0], done)
        return done.returncode, done.stdout

    def fetch(self, source: str, *args: str, objects: Sequence[str] = (), progress: bool = False) -> None:
        """Runs `git fetch`: the one command that may use the network and the user's configuration.

        Proxies, credentials and URL rewriting are the user's, so they apply here.

        Args:
            source: URL or path to fetch from.
            *args: Further arguments of `git fetch`: options, then refspecs.
            objects: Ids of objects to fetch by themselves.
            progress: Whether to show git's progress on standard error.

        Raises:
            GitError: It failed.
        """
        env = {key: value for key, value in os.environ.items() if key not in _REPOSITORY_VARIABLES}
        env |= {"GIT_DIR": str(self.git_dir), "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        options = [arg for arg in args if arg.startswith("-")]
        refspecs = [arg for arg in args if not arg.startswith("-")]
        config = [
            f"remote.upstream.url={source}",
            # A server that accepts the connection and then says nothing must not hang the run for ever.
            "http.lowSpeedLimit=1000",
            "http.lowSpeedTime=60",
        ]
        if objects:
            # As git itself does for the missing objects of a partial clone: it has no history to negotiate.
            config.append("fetch.negotiationAlgorithm=noop")
            options.append("--stdin")
        command = [word for setting in config for word in ("-c", setting)]
        command += ["fetch", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no"]
        command += ["--progress" if progress else "--quiet", *options, "upstream", *refspecs]
        done = self._start(tuple(command), "\n".join(objects).encode(), env, echo=progress)
        if done.returncode:
            raise self._error("fetch", done)

    def _start(
        self, args: tuple[str, ...], stdin: bytes, env: Mapping[str, str], echo: bool = False
    ) -> "subprocess.CompletedProcess[bytes]":
        env = dict(env)
        if self.work_tree:
            env["GIT_WORK_TREE"] = str(self.work_tree)
        if self.index:
            env["GIT_INDEX_FILE"] = str(self.index)
        try:
            process = subprocess.Popen(
                ["git", *args],
                cwd=self.work_tree or self.git_dir,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                close_fds=False,  # the run lock is inherited on purpose, see `runlock`
            )
        except FileNotFoundError:
            if not (self.work_tree or self.git_dir).is_dir():
                raise OverlayError(f"{self.git_dir} does not exist") from None
            raise OverlayError("git was not found; install git 2.39 or newer") from None
        stdout, stderr = _echoing(process, stdin) if echo else process.communicate(stdin)
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    def _error(self, command: str, done: "subprocess.CompletedProcess[bytes]") -> GitError:
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode < 0:
            said = f"fatal: killed by signal {-done.returncode}\n{said}"
        return GitError(f"git {command} failed in {self.git_dir}: {last_words(said)}", said)


def isolated_environment(git_dir: Path) -> dict[str, str]:
    """Returns an environment in which git sees only the repository at `git_dir`, and no network.

    Configuration of the user or the machine would change diffs, dates and line ends; an inherited
    `GIT_DIR` (we may run inside a hook) would change the repository.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return env | {
        "GIT_DIR": str(git_dir),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_COMMITTER_NAME": COMMITTER,
        "GIT_COMMITTER_EMAIL": COMMITTER_EMAIL,
        "LC_ALL": "C",
    }


def init_repository(git_dir: Path, *, bare: bool) -> Git:
    """Makes an empty repository whose diffs and checkouts no attribute file changes.

    It may lack blobs, as a partial clone does, but never goes looking for them by itself: its promisor
    remote has no URL.

    Args:
        git_dir: Where; made with its parents.
        bare: Whether it has no work tree.

    Returns:
        A runner for it.
    """
    git_dir.mkdir(parents=True, exist_ok=True)
    git = Git(git_dir)
    git.run("init", "--quiet", "--template=", *(["--bare"] if bare else []))
    (git_dir / "config").write_text(_CONFIG.format(bare=str(bare).lower()))
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info" / "attributes").write_text("* -text -filter -ident !diff !working-tree-encoding !eol\n")
    return git


def clear_stale_locks(git_dir: Path) -> None:
    """Deletes what git processes killed half-way left in a repository that we hold the run lock of."""
    for pattern in _STALE_LOCKS:
        for path in git_dir.glob(pattern):
            path.unlink(missing_ok=True)


def last_words(stderr: str) -> str:
    """Returns the line of git's output that says what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    return (telling or lines or ["it said nothing"])[0]


def _echoing(process: "subprocess.Popen[bytes]", stdin: bytes) -> tuple[bytes, bytes]:
    """Talks to a process whose standard error is shown as it comes."""
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(stdin)
    process.stdin.close()
    said = bytearray()
    while chunk := process.stderr.read1(4096):  # type: ignore[attr-defined]
        said += chunk
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
    stdout = process.stdout.read()
    process.wait()
    return stdout, bytes(said)
