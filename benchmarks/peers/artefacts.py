"""Make and judge artefacts in processes of their own, and keep what is there already."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT
from benchmarks.peers.methods import FILES, METHODS, OWN_PRECISION, TRAINED_BY, Method, trained_by
from benchmarks.peers.score import score_file, write_score
from nncf_transformers.data import sha256_of

PACKAGES = (
    "torch",
    "transformers",
    "nncf",
    "openvino",
    "optimum-intel",
    "onnxruntime",
    "torchao",
    "neural_compressor",
)
_LONGEST_REASON = 200
# As `make measure` has it. The FP32 model as teacher would hold the INT8 one where FP32 is.
_TRAINING = "--max_seq_length 256 --doc_stride 85 --pad_to_max_length False --per_device_train_batch_size 16 "
_TRAINING += "--learning_rate 3e-5 --warmup_ratio 0.1 --save_strategy no --report_to none"


class Workshop:
    """The artefacts of one FP32 model, each in a folder of its own.

    Attributes:
        out: holds the folders.
        files: the data, by "train" and "dev".
        identity: what artefacts are made from; one made from something else is made anew.
        versions: of the peers' packages; those that are not installed are missing.
    """

    def __init__(self, args: argparse.Namespace, files: dict[str, Path], python: Path) -> None:
        self._args = args
        self._python = python
        self.out: Path = args.out.resolve()
        self.files = files
        self.identity: dict[str, Any] = {
            "model_sha256": sha256_of(args.model / "model.safetensors"),
            "train_sha256": sha256_of(files["train"]),
            "samples": args.samples,
            "seed": args.seed,
        }
        self.versions = _versions(python)

    def folder(self, method: Method) -> Path:
        return self.out / method.key

    def made(self, method: Method) -> dict[str, Any]:
        """What :mod:`benchmarks.peers.make` says of an artefact; empty where there is none."""
        file = self.folder(method) / "made.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def reason(self, method: Method) -> str | None:
        """Why there is no artefact to use; None where there is one."""
        if self.made(method).get("identity") == self._identity(method):
            return None
        file = self.out / f"{method.key}.failed"
        return file.read_text(encoding="utf-8").strip() if file.is_file() else "not run"

    def score_reason(self, method: Method, runtime: str) -> str | None:
        """The same for its figures."""
        if self._score_identity(method, runtime) == self._dev_identity():
            return None
        file = score_file(self.folder(method), runtime).with_suffix(".failed")
        return file.read_text(encoding="utf-8").strip() if file.is_file() else "not judged"

    def make(self, method: Method, again: bool) -> str | None:
        """Make an artefact, unless it is there and ``again`` is false; returns why it cannot be made."""
        if not again and self.reason(method) is None:
            return None
        failed = self.out / f"{method.key}.failed"
        self.out.mkdir(parents=True, exist_ok=True)
        reason = self._missing(method)
        partial = self.out / f"{method.key}.partial"
        if reason is None:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            command = [*self._own_or_peers(method), "-m", "benchmarks.peers.make", method.key]
            command += ["--model", self._args.model, "--fp32", self.out / "fp32", "--train", self.files["train"]]
            command += ["--samples", self._args.samples, "--seed", self._args.seed, "--threads", self._args.threads]
            command += ["--out", partial, *(["--int8", self._int8()] if method.key == "ours-qat" else [])]
            reason = self._call(command, self.out / f"{method.key}.log")
        if reason is not None:
            failed.write_text(reason + "\n", encoding="utf-8")
            return reason
        made = json.loads((partial / "made.json").read_text(encoding="utf-8"))
        made["identity"] = self._identity(method)
        (partial / "made.json").write_text(json.dumps(made) + "\n", encoding="utf-8")
        shutil.rmtree(self.folder(method), ignore_errors=True)
        partial.replace(self.folder(method))
        failed.unlink(missing_ok=True)
        return None

    def score(self, method: Method, runtime: str) -> str | None:
        """Judge an artefact, unless it was judged on these questions; returns why it cannot be judged."""
        if self._score_identity(method, runtime) == self._dev_identity():
            return None
        file = score_file(self.folder(method), runtime)
        command = [self._python, "-m", "benchmarks.peers.score", runtime, self.folder(method)]
        command += ["--model", self._args.model, "--dev", self.files["dev"], "--threads", self._args.threads]
        reason = self._call([*command, *_exact(method.key, runtime)], file.with_suffix(".log"))
        if reason is not None:
            file.with_suffix(".failed").write_text(reason + "\n", encoding="utf-8")
            return reason
        write_score(file, json.loads(file.read_text(encoding="utf-8")) | {"dev_sha256": self._dev_identity()})
        file.with_suffix(".failed").unlink(missing_ok=True)
        return None

    def worker_command(self, key: str, runtime: str) -> list[str]:
        """The process that times an artefact."""
        command = [self._python, "-m", "benchmarks.peers.worker", runtime, self.out / key, "--model", self._args.model]
        command += [
            "--threads",
            self._args.threads,
            "--length",
            self._args.length,
            "--rows",
            self._args.batch,
            *_exact(key, runtime),
        ]
        return [str(word) for word in command]

    def size_mb(self, method: Method, runtime: str) -> float:
        """All files that the runtime needs, in MB (10^6 bytes)."""
        return round(sum((self.folder(method) / name).stat().st_size for name in FILES[runtime]) / 1e6, 2)

    @staticmethod
    def last_line(log: Path) -> str:
        """The end of a log, which for Python's errors is the reason."""
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:_LONGEST_REASON] if lines else "no output"

    def _identity(self, method: Method) -> dict[str, Any]:
        if method.key != "ours-qat":
            return self.identity
        checkpoint = self._int8() / "model.safetensors"
        if not checkpoint.is_file():
            # What was made before can be judged and timed without the checkpoint.
            known: dict[str, Any] = self.made(method).get("identity", self.identity)
            return self.identity | {"int8_sha256": known.get("int8_sha256")}
        return self.identity | {"int8_sha256": sha256_of(checkpoint)}

    def _dev_identity(self) -> str:
        return sha256_of(self.files["dev"])

    def _score_identity(self, method: Method, runtime: str) -> str | None:
        file = score_file(self.folder(method), runtime)
        return json.loads(file.read_text(encoding="utf-8")).get("dev_sha256") if file.is_file() else None

    def _int8(self) -> Path:
        """The checkpoint of our INT8 training: given, or trained here."""
        given: Path | None = self._args.int8
        return given or self.out / "qat-checkpoint"

    def _missing(self, method: Method) -> str | None:
        """Why a method cannot begin; trains our model where that was asked for."""
        if method.package and method.package not in self.versions:
            return f"{method.package} is not installed in {self._args.peers.name}"
        if method.key.startswith("ort") and self.reason(METHODS[0]) is not None:
            return "there is no FP32 ONNX file to start from: fp32 failed"
        if method.key != "ours-qat":
            return None
        there = self._int8().joinpath("model.safetensors").is_file()
        if self._args.int8 is None and self._args.train_steps:
            return None if there and trained_by(self._int8()).get("flags") == self._training() else self._train()
        if not there:
            return "not run: give --int8 DIR (make: INT8=DIR), a checkpoint of our training, or --train-steps N"
        return None

    def _training(self) -> str:
        """The flags of our INT8 training but for the paths."""
        args = self._args
        words = ["--max_steps", str(args.train_steps), "--seed", str(args.seed), *_TRAINING.split()]
        return shlex.join([*words, *shlex.split(args.train_flags)])

    def _train(self) -> str | None:
        """INT8 training by the patched run_qa; returns why it failed."""
        from overlay.errors import OverlayError
        from scripts.train import script_path

        args = self._args
        try:
            script = script_path(args.pin, "run_qa")
        except OverlayError as error:
            return str(error)
        command: list[Any] = [sys.executable, script, "--model_name_or_path", args.model, "--do_train"]
        command += ["--train_file", self.files["train"], "--validation_file", self.files["dev"]]
        command += ["--nncf-config", ROOT / "nncf_configs" / "nncf_bert_config_squad.json"]
        command += ["--output_dir", self._int8(), "--overwrite_output_dir"]
        command += shlex.split(self._training())
        shutil.rmtree(self._int8(), ignore_errors=True)
        start = time.perf_counter()
        reason = self._call(command, self.out / "qat-checkpoint.log", limited=False)
        if reason is None:
            known = {"flags": self._training(), "seconds": round(time.perf_counter() - start)}
            (self._int8() / TRAINED_BY).write_text(json.dumps(known) + "\n", encoding="utf-8")
        return reason

    def _own_or_peers(self, method: Method) -> list[Any]:
        return [sys.executable if method.own else self._python]

    def _call(self, command: Sequence[Any], log: Path, limited: bool = True) -> str | None:
        """Run a command with its output in ``log``; returns the reason of a failure in one line."""
        words = [str(word) for word in command]
        print(f"+ {shlex.join(words)}\n  output: {log}", flush=True)
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment_of(self._args.threads, self._args.peers),
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                process.wait(self._args.limit if limited else None)
            except BaseException as error:
                # Its own children, a compiler say, too.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return f"took more than {self._args.limit} s (--limit)"
        if process.returncode < 0:
            return f"ended by signal {-process.returncode} ({signal.Signals(-process.returncode).name})"
        return None if process.returncode == 0 else self.last_line(log)


def environment_of(threads: int, peers: Path) -> dict[str, str]:
    """The environment variables of all processes: so many threads, no network, no questions."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "OPENVINO_TELEMETRY_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        # What NNCF compiles for itself depends on the environment; it may take its time.
        "TORCH_EXTENSIONS_DIR": str(peers.resolve() / "torch-extensions"),
        "NNCF_EXTENSION_LOAD_TIMEOUT": "0",
    }


def _exact(key: str, runtime: str) -> list[str]:
    """FP32 is computed in float32; left to itself, OpenVINO takes bfloat16 where the processor has it."""
    return ["--exact"] if key == "fp32" and runtime != OWN_PRECISION else []


def _versions(python: Path) -> dict[str, str]:
    """The versions of the peers' packages that are installed."""
    program = "import sys, json, importlib.metadata as m\nfound = {}\nfor name in sys.argv[1:]:\n"
    program += "    try:\n        found[name] = m.version(name)\n    except m.PackageNotFoundError:\n        pass\n"
    program += "print(json.dumps(found))"
    found = subprocess.run([python, "-c", program, *PACKAGES], capture_output=True, text=True, check=True, cwd=ROOT)
    versions: dict[str, str] = json.loads(found.stdout)
    return versions
