#!/usr/bin/env python
"""Fine-tune a model that finds answers; with a teacher; to INT8.

    python scripts/train_qa.py --model_student DIR --supervision_weight 0 --freeze_list embedding \\
        --squad_train_data train-v1.1.json --squad_dev_data dev-v1.1.json --output_dir qa-fp32
    python scripts/train_qa.py --model_student qa-small --model_teacher qa-fp32 --nncf_config nncf_config.json \\
        --squad_train_data train-v1.1.json --squad_dev_data dev-v1.1.json --output_dir qa-small-int8

The second trains the quantizers alone for an epoch, then everything. The result is a model folder with model.onnx and
openvino/ in it. An interrupted training goes on with the same command. Several GPUs: torchrun --nproc-per-node N.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nncf_transformers import excepthook

if __name__ == "__main__":
    excepthook.install()
    from nncf_transformers.training.qa import main

    sys.exit(main(__doc__ or ""))
