"""What the scripts of 2019 need to run on today's Python and torch, with or without compression.

* ``torch.load`` reads plain tensors only, unless told whom to trust; the scripts keep their features in such a file.
* ``torchrun`` says a process's number in the environment, not by ``--local_rank``; and it runs on processors, too.
"""

import argparse
import os
import sys
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel as _DistributedDataParallel

# Where the scripts' features are defined.
_FEATURES = ("utils_squad", "transformers.data.processors.utils")

torch.serialization.add_safe_globals([sys.modules[name].InputFeatures for name in _FEATURES if name in sys.modules])


def join_processes(args: argparse.Namespace) -> None:
    """Take the process's number from ``torchrun``; without GPUs, meet the other processes by gloo.

    Args:
        args: the script's arguments; ``local_rank`` may change.
    """
    args.local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    if args.local_rank != -1 and args.no_cuda:
        torch.distributed.init_process_group(backend="gloo")
        # The scripts name a GPU when they wrap the model, and leave no other place to say that there is none.
        torch.nn.parallel.DistributedDataParallel = _without_gpu  # type: ignore[assignment, misc]


def _without_gpu(model: Any, *, device_ids: Any, output_device: Any, **kwargs: Any) -> Any:
    return _DistributedDataParallel(model, **kwargs)
