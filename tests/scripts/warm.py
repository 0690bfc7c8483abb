"""Run scripts in forks of one process that has the libraries loaded, which takes most of the time of a short run.

Each line of the input is a job: the script's path and words, its folder, and files for what it prints. The answer is
its exit code. A script ends with its process, as ever, by the interpreter's own exit; nothing is left to the next one.
"""

import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType

# Only what others have written: the project's own modules patch these, and each script does that for itself.
import accelerate  # noqa: F401
import datasets  # noqa: F401
import nncf.torch  # noqa: F401
import torch  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForQuestionAnswering,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
    Trainer,
)

# A script that hangs is killed.
SECONDS = 600


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            become(**job)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(words: list[str], cwd: str, out: str, err: str) -> None:
    """Be the process of a script: whatever it raises ends this one."""
    for path, descriptor, flags in (
        (os.devnull, 0, os.O_RDONLY),
        (out, 1, os.O_WRONLY | os.O_CREAT),
        (err, 2, os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), descriptor)
    signal.alarm(SECONDS)
    os.chdir(cwd)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    # Not by runpy, which would have taken the script's place before an error of it is reported.
    script = ModuleType("__main__")
    script.__file__ = words[0]
    sys.modules["__main__"] = script
    exec(compile(Path(words[0]).read_bytes(), words[0], "exec"), script.__dict__)


if __name__ == "__main__":
    main()
