"""Make one artefact, in the environment of its method: ``python -m benchmarks.peers.make KEY --model DIR …``.

The driver calls this; it writes model files into ``--out``, and what was done, in words, to ``made.json`` beside them.
"""

import argparse
import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.methods import trained_by
from nncf_transformers.errors import CompressionError

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = ROOT / "nncf_configs" / "nncf_bert_config_squad.json"


def main() -> int:
    """Make what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("key")
    parser.add_argument("--model", type=Path, required=True, help="the FP32 checkpoint")
    parser.add_argument("--int8", type=Path, help="ours-qat: the INT8 checkpoint")
    parser.add_argument("--fp32", type=Path, help="folder of the artefact fp32, for methods that start from ONNX")
    parser.add_argument("--train", type=Path, required=True, help="SQuAD file to calibrate on")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="an existing folder")
    args = parser.parse_args()
    logging.getLogger("nncf").setLevel(logging.ERROR)
    start = time.perf_counter()
    try:
        what = _make(args)
    except CompressionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    made = {"what": what, "seconds": round(time.perf_counter() - start, 1)}
    (args.out / "made.json").write_text(json.dumps(made) + "\n", encoding="utf-8")
    return 0


def _make(args: argparse.Namespace) -> str:
    import torch
    from transformers import AutoTokenizer

    from benchmarks.peers.samples import calibration_samples

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    samples = calibration_samples(tokenizer, args.train, args.samples, args.seed)
    kind, _, variant = args.key.partition("-")
    if kind == "ort":
        from benchmarks.peers import make_onnx

        source, target = args.fp32 / "model.onnx", args.out / "model.onnx"
        if variant == "dynamic":
            return make_onnx.dynamic(source, target)
        # Linear layers carry nearly all of the work, tables that are looked up much of the size. ONNX Runtime's own
        # choice is "all".
        method, types = ("MinMax", None) if variant == "all" else (_METHODS[variant], ("MatMul", "Gemm", "Gather"))
        return make_onnx.static(source, target, samples, method, types)
    if args.key == "optimum-intel":
        return _optimum(args, samples)
    return _from_torch(args, samples)


_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def _from_torch(args: argparse.Namespace, samples: list[dict[str, Any]]) -> str:
    """Methods that start from the torch model."""
    from transformers import AutoModelForQuestionAnswering

    from benchmarks.peers import make_torch
    from nncf_transformers.loading import load_model

    if args.key == "ours-qat":
        model = load_model(AutoModelForQuestionAnswering, args.int8).eval()
        _export(model, args.out)
        known = trained_by(args.int8)
        if not known:
            return "trained before, by flags that are not known here"
        return f"run_qa {known['flags']} --nncf-config {CONFIG.name} ({known['seconds']} s)"
    model = AutoModelForQuestionAnswering.from_pretrained(args.model).eval()
    if args.key == "fp32":
        _export(model, args.out)
        import torch

        torch.save(model.state_dict(), args.out / "model.pt")
        return "as it is"
    if args.key == "ours-ptq":
        what = make_torch.ours(model, CONFIG, samples)
        _export(model, args.out)
        return what
    if args.key == "torchao":
        return make_torch.torchao(model, args.out / "model.pt", samples)
    if args.key == "nncf":
        return make_torch.nncf_ir(model, args.out / "openvino_model.xml", samples)
    return make_torch.compressor(model, args.out / "model.pt2", samples, args.key.partition("-")[2])


def _optimum(args: argparse.Namespace, samples: list[dict[str, Any]]) -> str:
    """optimum-intel's quantizer with its defaults for a model of this kind."""
    import nncf
    from optimum.intel import OVConfig, OVModelForQuestionAnswering, OVQuantizationConfig, OVQuantizer

    model = OVModelForQuestionAnswering.from_pretrained(args.model, export=True, compile=False)
    config = OVQuantizationConfig(num_samples=len(samples))
    OVQuantizer.from_pretrained(model).quantize(
        calibration_dataset=nncf.Dataset(samples),
        ov_config=OVConfig(quantization_config=config),
        save_directory=args.out,
    )
    return f"OVQuantizationConfig() of optimum-intel {version('optimum-intel')}, {len(samples)} samples"


def _export(model: Any, folder: Path) -> None:
    """Write the model as ONNX and IR, the IR's files beside the ONNX file."""
    from nncf_transformers.export import export_model

    ir = folder / "ir"
    export_model(model, to_onnx=str(folder / "model.onnx"), to_openvino=str(ir))
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (ir / name).replace(folder / name)


if __name__ == "__main__":
    sys.exit(main())
