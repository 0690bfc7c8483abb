#!/usr/bin/env python
"""Make a model smaller, and let it learn the hidden states of the large one, stage by stage.

    python scripts/pack_and_distill.py --model_student qa-fp32 --model_teacher qa-fp32 --output_dir qa-small \\
        --squad_train_data train-v1.1.json --squad_dev_data dev-v1.1.json \\
        --pack_cfg num_hidden_layers:12,ff_iter_num:4,num_attention_heads:8,hidden_size:512,pack_emb:1,hidden_act:orig

Takes models that answer questions (train_qa) and such that embed texts (train_qcemb). The result is a plain smaller
model with model.onnx and openvino/ beside it; unmerged/ holds the weights from which the last stage can be run again.
An interrupted training goes on with the same command. Several GPUs: torchrun --nproc-per-node N.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nncf_transformers import excepthook

if __name__ == "__main__":
    excepthook.install()
    from nncf_transformers.training.pack import main

    sys.exit(main(__doc__ or ""))
