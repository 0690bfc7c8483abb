"""Times the patch tool: `--help`, the first `apply`, and `apply` when there is nothing to do.

    python apply_patch.py fetch
    python benchmarks/bench_apply.py

The first `apply` is timed in a project folder of its own, so that the user's work tree is left alone.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIMITS = {"--help": 0.5, "first apply": 2.0, "apply again": 2.0}


def seconds(*args: str) -> float:
    """Runs the tool and returns its wall time in seconds; ends the program where it fails."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(REPOSITORY / "apply_patch.py"), *args], capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr.strip())
    return elapsed


def measure(pin: list[str], repeats: int) -> dict[str, list[float]]:
    """Returns the wall times in seconds of each case, one per repeat."""
    times: dict[str, list[float]] = {name: [] for name in LIMITS}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("pins.toml", "patches", "embedded"):
                Path(folder, name).symlink_to(REPOSITORY / name)
            apply = ("apply", "--project", folder, *pin)
            times["--help"].append(seconds("--help"))
            times["first apply"].append(seconds(*apply))
            times["apply again"].append(seconds(*apply))
    return times


def main() -> int:
    """Prints a line per case; returns 1 if a median is over its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pin", help="pin to apply (default: the default pin)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each case (default: 5)")
    args = parser.parse_args()
    times = measure(["--pin", args.pin] if args.pin else [], args.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"{name:12} median {medians[name]:.3f} s, best {min(values):.3f} s, worst {max(values):.3f} s, "
            f"limit {LIMITS[name]:.1f} s"
        )
    return int(any(medians[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
