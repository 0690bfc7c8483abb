#!/usr/bin/env python
"""Make the published tables again, at the scale of this machine.

    make tables SCALE=smoke                                     # generated data, tiny models: does it all run?
    make tables SCALE=cpu DATA=DIR MODEL=ENCODER TASK=sst2      # small model, slices of data, some minutes a task
    make tables SCALE=full                                      # the published command lines; wants a GPU and the hub

Whatever ends it, the same command goes on: what is done is not repeated, a training that was interrupted resumes from
its last checkpoint. A changed file or line of benchmarks/scales.toml repeats only what was made from it. A step that
fails leaves the others alone; the exit code is then 1. Results: OUT/results.json, OUT/report.html, and, unless the data
are generated, a copy in benchmarks/measured/, where `make readme` finds that of SCALE=cpu.
"""

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.harness import circumstances, run  # noqa: E402
from benchmarks.reproduce import jobs as planning  # noqa: E402
from benchmarks.reproduce import results as rendering  # noqa: E402
from benchmarks.reproduce.figures import Task, choose, load_figures  # noqa: E402
from benchmarks.reproduce.jobs import Earlier, Job, Missing, Plan, Setting  # noqa: E402
from benchmarks.reproduce.steps import Step, StepError, finished, last_checkpoint, perform  # noqa: E402
from nncf_transformers.errors import CompressionError, UsageError  # noqa: E402
from overlay.errors import OverlayError  # noqa: E402
from overlay.pins import load_pins  # noqa: E402
from overlay.runlock import run_lock  # noqa: E402
from scripts.train import script_path  # noqa: E402

MEASURED = ROOT / "benchmarks" / "measured"
# Runs a command, writing to a log; as harness.run.
Runner = Callable[[list[str], Path], float]


def main() -> int:
    """Do what is missing, and write what there is."""
    args = _parse()
    try:
        tasks = load_figures()
        chosen = choose(tasks, args.task)
        scale = planning.load_scale(args.scale)
        out = (args.out or ROOT / "runs" / "tables" / args.scale).resolve()
        out.mkdir(parents=True, exist_ok=True)
        with run_lock(out / ".lock", str(out)):
            setting = _setting(args, scale, out)
            plans = make_plans(tasks, chosen, scale, setting)
            results = Tables(tasks, scale, setting, plans).make(chosen)
            _write(results, out, copy=args.out is None and not scale.get("generated"))
    except (CompressionError, OverlayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"\n{rendering.table(results, str(out / 'results.json'))}")
    _say_commits(results)
    failed = [
        f"{name}/{row['key']}" for name in chosen for row in results["tasks"][name]["rows"] if row["status"] == "failed"
    ]
    if failed:
        print(f"error: {', '.join(failed)} failed; the same command tries again", file=sys.stderr)
    return int(bool(failed))


def make_plans(
    tasks: Mapping[str, Task], chosen: list[str], scale: Mapping[str, Any], setting: Setting
) -> dict[str, Plan]:
    """What to run for the chosen tasks, what they need of others included, by ``task/key``."""
    if setting.scale == "full":
        plans = planning.full_jobs(tasks, scale["judging"], setting)
    else:
        plans = planning.scale_jobs(scale, setting)
    return planning.ordered(plans, [name for name in plans if name.partition("/")[0] in chosen])


class Tables:
    """The steps of all chosen rows."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        scale: Mapping[str, Any],
        setting: Setting,
        plans: Mapping[str, Plan],
        runner: Runner = run,
        judge: Callable[[Job], Any] | None = None,
        speeds: Callable[..., Any] | None = None,
    ) -> None:
        from benchmarks.reproduce import judging

        self._tasks, self._scale, self._setting, self._plans = tasks, scale, setting, plans
        self._runner, self._judge, self._speeds = runner, judge or judging.judge, speeds or judging.speeds
        self._words = judging.judging_words
        self._digests: dict[str, str] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def make(self, chosen: list[str]) -> dict[str, Any]:
        """Train and judge row by row, then measure speeds, and put together the results."""
        planned = {name.partition("/")[0] for name in self._plans}
        if idle := [task for task in chosen if task not in planned]:
            print(f"nothing is run of what SCALE={self._setting.scale} has no form of: {', '.join(idle)}", flush=True)
        for name, plan in self._plans.items():
            task, _, key = name.partition("/")
            published = rendering.published_row(self._tasks[task], key)
            try:
                self._rows[name] = self._row(name, plan, published, judged=task in chosen)
            except (StepError, OSError, KeyError, ValueError) as error:
                print(f"{name}: failed: {error}", flush=True)
                self._rows[name] = rendering.row_of(key, plan.label, published, rendering.FAILED, reason=str(error))
        for task in chosen:
            self._speed(task)
        return self._results(chosen)

    def _row(self, name: str, plan: Plan, published: Any, judged: bool) -> dict[str, Any]:
        if isinstance(plan, Missing):
            key = name.partition("/")[2]
            return rendering.row_of(key, plan.label, published, rendering.NOT_RUN, reason=plan.reason)
        if isinstance(plan, Earlier):
            return rendering.earlier_row(plan, published)
        if lacking := [one for one in plan.needs if one not in self._digests]:
            raise StepError(f"{', '.join(lacking)}, which it starts or learns from, failed")
        trained = self._train(plan)
        if not judged:
            return {}
        dev = {key: value for key, value in plan.inputs.items() if "dev" in key or "valid" in key}
        step = Step(
            f"{name}: judging", "judge", plan.folder, self._words(plan.judging), {"the model": trained["digest"], **dev}
        )
        return rendering.measured_row(plan, published, trained, perform(step, lambda _: self._judge(plan)))

    def _train(self, job: Job) -> dict[str, Any]:
        step = job.step(self._digests)

        def work(checkpoint: Path | None) -> None:
            job.folder.mkdir(parents=True, exist_ok=True)
            for path, text in job.files.items():
                path.write_text(text, encoding="utf-8")
            resumed = ["--resume_from_checkpoint", str(checkpoint)] if checkpoint else []
            log = job.folder / f"{'resumed' if checkpoint else 'training'}.log"
            self._runner([*job.words, *resumed], log)

        new = finished(step) is None
        if new:
            print(f"{job.name}: {job.what}", flush=True)
        marker = perform(step, work)
        if new:
            _drop_checkpoints(job.folder)
        self._digests[job.name] = step.digest
        return marker

    def _speed(self, task: str) -> None:
        """Speeds of the rows of a task that have been judged, in one step."""
        done = [
            plan
            for name, plan in self._plans.items()
            if isinstance(plan, Job)
            and name.partition("/")[0] == task
            and plan.judging.kind != "script"
            and self._rows[name]["status"] == rendering.DONE
        ]
        if not done:
            return
        digests = {job.name: self._digests[job.name] for job in done}
        words = f"latency and throughput, {done[0].judging.latency_length} tokens"
        step = Step(f"{task}: speed", "speed", self._setting.out / task, words, digests)
        quantized = {job.name: bool(self._rows[job.name]["quantizers"]) for job in done}
        try:
            for name, speed in perform(step, lambda _: self._speeds(done, quantized))["value"].items():
                self._rows[name] |= speed
        except StepError as error:
            print(f"{step.name}: failed: {error}", flush=True)
            for job in done:
                self._rows[job.name] |= {"status": rendering.FAILED, "reason": f"speed: {error}"}

    def _results(self, chosen: list[str]) -> dict[str, Any]:
        """Rows of all tasks; those of tasks that were not chosen are as they were."""
        before = rendering.read(self._setting.out / "results.json")["tasks"]
        scale = self._setting.scale
        tasks, files = {}, {}
        for name, task in self._tasks.items():
            table = self._scale.get("tasks", {}).get(name, {})
            labels = {row["key"]: row["label"] for row in table.get("rows", ()) if "label" in row}
            if name not in chosen and name in before:
                tasks[name] = rendering.with_figures(before[name], task, labels)
                continue
            data = self._data(name, table)
            files |= {f"{name}/{one['file']}": self._setting.out / name / "data" / one["file"] for one in data}
            idle = "was not asked for" if name not in chosen else f"SCALE={scale} has no smaller form of it"
            known = {row.key for row in task.rows}
            rows = [
                self._rows.get(f"{name}/{row.key}")
                or rendering.row_of(row.key, labels.get(row.key, ""), row, rendering.NOT_RUN, reason=idle)
                for row in task.rows
            ]
            rows += [
                row
                for key, row in self._rows.items()
                if row and key.partition("/")[0] == name and row["key"] not in known
            ]
            tasks[name] = {
                "title": table.get("title", task.title),
                "published_title": task.title,
                "source": task.source,
                "metrics": list(task.metrics),
                "data": data,
                "rows": rows,
            }
        return {
            "format": rendering.FORMAT,
            "benchmark": "tables",
            "kind": "tables",
            "name": f"tables-{scale}",
            "title": self._scale["title"],
            "scale": scale,
            "tasks": tasks,
            **circumstances(self._setting.pin, files, self._scale.get("arguments", {}).get("seed", 42)),
        }

    def _data(self, name: str, table: Mapping[str, Any]) -> list[dict[str, str]]:
        folder = self._setting.out / name / "data"
        return [
            {"file": file, "sha256": planning.sha256_of(folder / file), "what": table["what"]}
            for file in table.get("files", {})
            if self._setting.data is not None and (folder / file).is_file()
        ]


def _check_pin(name: str, scale: Mapping[str, Any]) -> None:
    """Refuse a pin that cannot make the tables, before anything is made for them.

    Raises:
        OverlayError: it is not known, or not applied, or its environment is another one.
        UsageError: it lacks a script that the tables want.
    """
    scripts = sorted({table["script"] for table in scale.get("tasks", {}).values() if "script" in table})
    pin = load_pins(ROOT / "pins.toml").get(name)
    if lacking := [script for script in scripts if script not in pin.scripts]:
        raise UsageError(f"PIN={name}: has no {lacking[0]}, which the tables want; take the default, or another pin")
    for script in scripts:
        script_path(name, script)


def _setting(args: argparse.Namespace, scale: Mapping[str, Any], out: Path) -> Setting:
    """What the user gave; at the scale of generated data, make what is missing."""
    data, models = args.data, {"MODEL": args.model, "QA_MODEL": args.qa_model}
    generated = scale.get("generated", False)
    if generated and (data or args.model or args.qa_model):
        raise UsageError(f"SCALE={args.scale}: makes its data and its model itself; drop DATA, MODEL and QA_MODEL")
    if not generated and args.scale != "full" and data is None:
        raise UsageError(f"SCALE={args.scale}: wants DATA=DIR and MODEL=DIR; what is in them: benchmarks/scales.toml")
    if data is not None and not data.is_dir():
        raise UsageError(f"DATA={data}: there is no such folder")
    for name, model in models.items():
        if model and not Path(model, "config.json").is_file():
            raise UsageError(f"{name}={model}: holds no config.json; give the folder of a model")
    _check_pin(args.pin, scale)
    if generated:
        data, models = _generate(out / "generated"), {"MODEL": str(out / "generated" / "model")}
    given = {name: str(Path(model).resolve()) for name, model in models.items() if model}
    return Setting(args.scale, out, args.pin, data.resolve() if data else None, given)


def _generate(folder: Path) -> Path:
    """The demo's data and model, made once."""

    def work(_: Path | None) -> None:
        run([sys.executable, "-m", "demo.data", "--out", str(folder), "--size", "tiny"], folder / "log")

    perform(Step("generated data", "data", folder, "demo.data --size tiny", owns_folder=True), work)
    return folder


def _drop_checkpoints(folder: Path) -> None:
    """A finished training needs none any more, and they are large."""
    import shutil

    while (checkpoint := last_checkpoint(folder)) is not None:
        shutil.rmtree(checkpoint)


def _write(results: dict[str, Any], out: Path, copy: bool) -> None:
    """The results, their copy, and the page."""
    from benchmarks.report import render_report
    from nncf_transformers.checkpoint import write_text

    text = json.dumps(results, indent=1) + "\n"
    write_text(out / "results.json", text)
    write_text(out / "report.html", render_report(results))
    if copy:
        write_text(MEASURED / f"{results['name']}.json", text)
    print(f"wrote {out / 'results.json'} and report.html")


def _say_commits(results: Mapping[str, Any]) -> None:
    commits = rendering.commits_of(results)
    if len(commits) > 1:
        print(f"note: rows were made with different commits, each row says which: {', '.join(commits)}")
    dirty = sorted({one for one in (*commits, results.get("overlay_commit")) if one and one.endswith("-dirty")})
    if dirty:
        print(
            f"warning: files differed from the commit ({', '.join(dirty)}): nobody can make these figures again from it"
        )


def _parse() -> argparse.Namespace:
    scales = tomllib.loads(planning.SCALES.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="*", default=[], help="tables of benchmarks/published/ (default: all)")
    parser.add_argument("--scale", default="smoke", help=f"{', '.join(scales)} (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="folder with data, as benchmarks/scales.toml names its files")
    parser.add_argument("--model", help="folder of a small encoder that trainings start from")
    parser.add_argument(
        "--qa-model", help="folder of a fine-tuned question-answering model; without it, one is trained"
    )
    parser.add_argument("--pin", default="v4.57")
    parser.add_argument("--out", type=Path, help="instead of runs/tables/SCALE; then nothing is copied to benchmarks/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
