"""A small upstream repository, and projects that keep patches over it."""

import shutil
from pathlib import Path

import pytest
from fake_upstream import (
    PINS,
    RUN_ONE,
    RUN_TWO,
    SCRIPT,
    TRAINER_ONE,
    Project,
    Upstream,
    copy_project,
    git,
    write,
)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    """A bare upstream with three commits on main; the files outside the examples are never needed."""
    work = tmp_path_factory.mktemp("upstream-work")
    git(work, "init", "--quiet", "--initial-branch=main")
    for path, name in (
        (RUN_ONE, "FIRST"),
        (TRAINER_ONE, "TRAINER"),
        (RUN_TWO, "TWO"),
        ("src/library.py", "LIB"),
    ):
        write(work / path, SCRIPT.format(name=name))
    write(work / ".gitattributes", "*.py text eol=lf diff=python\n")
    write(work / ".gitignore", "*.log\n")
    commits: list[str] = []
    for version in ("4.0.0", "4.1.0", "4.2.0"):
        script = (work / RUN_ONE).read_text()
        write(work / RUN_ONE, f"{script.rpartition('# version')[0] or script}# version {version}\n")
        write(work / "README.md", f"version {version}\n")
        git(work, "add", ".")
        git(work, "commit", "--quiet", "-m", f"Version {version}")
        commits.append(git(work, "rev-parse", "HEAD"))
    bare = tmp_path_factory.mktemp("upstream") / "upstream.git"
    git(work, "clone", "--quiet", "--bare", ".", str(bare))
    return Upstream(bare, tuple(commits))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Project:
    """A project that is fetched and has two patches; tests get copies of it."""
    home = tmp_path_factory.mktemp("template")
    project = Project(home / "project", home / "cache", upstream)
    pins = PINS.format(upstream=upstream.path, commit=upstream.pinned, local="0" * 40)
    write(project.root / "pins.toml", pins)
    write(project.root / "local" / "run_one.py", SCRIPT.format(name="LOCAL"))
    for pin in ("v1", "local"):
        write(project.root / "patches" / pin / "series", "")
    for command in (["fetch"], ["lock"], ["apply"], ["repin", "--pin", "local"]):
        assert project.run(*command).code == 0
    for patch, paths in (("01-one", (RUN_ONE, TRAINER_ONE)), ("02-two", (RUN_TWO,))):
        for path in paths:
            project.edit(path)
        message = (
            "--subject",
            f"Patch {patch}",
            "--description",
            "After logger, which upstream leaves alone.",
        )
        assert project.run("export", "--patch", patch, *message).code == 0
    shutil.rmtree(project.root / "build")
    return project


@pytest.fixture
def project(tmp_path: Path, template: Project) -> Project:
    """A fetched project with two patches that are not applied."""
    return copy_project(template, tmp_path)


@pytest.fixture
def applied(project: Project) -> Project:
    """A project whose patches are applied."""
    assert project.run("apply").code == 0
    return project


@pytest.fixture
def unfetched(project: Project) -> Project:
    """A project with an empty cache."""
    shutil.rmtree(project.cache)
    return project
