#!/usr/bin/env python
"""Train a model whose embeddings put a question near the context that answers it; with a teacher; to INT8.

    python scripts/train_qcemb.py --model_student DIR --output_dir emb-fp32 --learning_rate 3e-5 \\
        --squad_train_data train-v1.1.json --squad_dev_data dev-v1.1.json
    python scripts/train_qcemb.py --model_student emb-small --model_teacher emb-fp32 --supervision_weight 0.02 \\
        --loss_cfg triplet_num:1,emb_loss:L2 --nncf_config nncf_config.json --learning_rate 3e-5 \\
        --squad_train_data train-v1.1.json --squad_dev_data dev-v1.1.json --output_dir emb-small-int8

The log says how often a question's context is among the 1, 5, 10, 100, 200 nearest of all contexts of the file. The
result is a model folder with model.onnx and openvino/ in it. An interrupted training goes on with the same command.
Several GPUs: torchrun --nproc-per-node N.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nncf_transformers import excepthook

if __name__ == "__main__":
    excepthook.install()
    from nncf_transformers.training.embeddings import main

    sys.exit(main(__doc__ or ""))
