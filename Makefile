# The front door. `make help` says what each target does; each recipe is one command, printed before it runs.

PYTHON ?= python3
PIN    ?= v4.57
MODEL  ?=
DATA   ?=
OUT    ?=
EPOCHS ?=
BATCH  ?=
NPROC  ?= 1
EXTRA  ?=
TASK   ?= squad
NAME   ?= unnamed
TO     ?=
AS     ?=
UPSTREAM ?=

# A pin whose library is not that of requirements.txt has requirements and an environment of its own.
OWN  := $(if $(wildcard requirements-$(PIN).txt),-$(PIN))
VENV := .venv$(OWN)
# The library of 2019 comes from the pin's own checkout.
CHECKOUT := $(if $(filter v2.2,$(PIN)),$(CURDIR)/build/$(PIN))
RUN  := $(VENV)/bin/python
# Installed when this stamp is newer than the requirements: an interrupted installation leaves no stamp. The .pth file
# lets the patched scripts find nncf_transformers, however they are started.
READY := $(VENV)/.ready

# NNCF and OpenVINO report their use over the network unless told not to.
export OPENVINO_TELEMETRY_DISABLE ?= 1

flags = --pin $(PIN) --nproc $(NPROC) $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) \
	$(if $(OUT),--out $(OUT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch $(BATCH)) \
	$(if $(EXTRA),-- $(EXTRA))

.DEFAULT_GOAL := help
.PHONY: help setup fetch apply revert status squad-fp32 squad-int8 squad-jpqd xnli-fp32 xnli-int8 mnli-int8 sst2-int8 mrpc-int8 \
	demo test lint format clean distclean bench-step bench-methods bench-latency bench-apply bench-drift measure methods readme \
	drift rebase matrix

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: PIN MODEL DATA OUT EPOCHS BATCH NPROC EXTRA; TO AS UPSTREAM. For example"
	@echo "  make squad-int8 MODEL=DIR DATA=DIR EPOCHS=1 EXTRA='--max_train_samples 1000'"

setup: $(READY) ## make .venv (or .venv-PIN) and install the pinned requirements into it

$(READY): requirements-common.txt requirements$(OWN).txt requirements$(OWN).lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else "error: Python 3.11 or 3.12 is needed, this is %d.%d; run make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements$(OWN).txt -c requirements$(OWN).lock
	$(RUN) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "nncf-transformers-overlay.pth").write_text("$(CURDIR)\n$(CHECKOUT)\n")'
	touch $@

fetch: $(READY) ## fill the mirror of the pin's upstream (UPSTREAM_URL=URL-or-path for another source)
	$(RUN) apply_patch.py fetch --pin $(PIN)

apply: $(READY) ## check out the pin under build/ and apply its patches
	$(RUN) apply_patch.py apply --pin $(PIN)

revert: $(READY) ## take the patches off again
	$(RUN) apply_patch.py revert --pin $(PIN)

status: $(READY) ## say what is fetched, applied or changed
	$(RUN) apply_patch.py status

drift: $(READY) ## carry the patches over upstream's history: what each commit did (UPSTREAM=URL-or-path, TO=REF)
	$(if $(UPSTREAM),$(RUN) apply_patch.py fetch --history --pin $(PIN) --from $(UPSTREAM))
	$(RUN) apply_patch.py drift --pin $(PIN) $(if $(TO),--to $(TO)) $(if $(UPSTREAM),--from $(UPSTREAM)) --html build/drift-$(PIN).html

rebase: $(READY) ## carry the patches to a later commit, as a new pin: make rebase TO=REF AS=NAME (UPSTREAM=URL-or-path)
	$(if $(UPSTREAM),$(RUN) apply_patch.py fetch --history --pin $(PIN) --from $(UPSTREAM))
	$(RUN) apply_patch.py rebase --pin $(PIN) --to $(TO) --as $(AS) $(if $(UPSTREAM),--from $(UPSTREAM))

matrix: $(READY) ## apply and try out every pin whose upstream is in the cache and whose environment is installed
	$(RUN) scripts/matrix.py

squad-fp32: $(READY) ## fine-tune the FP32 baseline on SQuAD
	$(RUN) scripts/train.py squad $(flags)

squad-int8: $(READY) ## quantization-aware training on SQuAD, evaluation, export to ONNX and OpenVINO
	$(RUN) scripts/train.py squad --int8 $(flags)

squad-jpqd: $(READY) ## joint pruning, quantization and distillation on SQuAD (EXTRA='--teacher_model_or_path DIR' for another teacher)
	$(RUN) scripts/train.py squad-jpqd --int8 $(flags)

xnli-fp32: $(READY) ## fine-tune the FP32 baseline on XNLI (zh)
	$(RUN) scripts/train.py xnli $(flags)

xnli-int8: $(READY) ## the same for XNLI (zh)
	$(RUN) scripts/train.py xnli --int8 $(flags)

mnli-int8: $(READY) ## the same for MNLI with RoBERTa-large
	$(RUN) scripts/train.py mnli --int8 $(flags)

sst2-int8: $(READY) ## the same for SST-2 with DistilBERT
	$(RUN) scripts/train.py sst2 --int8 $(flags)

mrpc-int8: $(READY) ## the same for MRPC with BERT-base
	$(RUN) scripts/train.py mrpc --int8 $(flags)

demo: $(READY) ## the whole way on a small model and generated data, offline, in a few minutes
	$(RUN) scripts/demo.py

measure: $(READY) ## FP32, PTQ and QAT on local data: make measure TASK=squad NAME=... MODEL=DIR DATA=DIR
	$(RUN) benchmarks/measure.py $(TASK) --name $(NAME) --pin $(PIN) --model $(MODEL) --data $(DATA) -- $(EXTRA)

methods: $(READY) ## all compression methods on local data with one budget: make methods TASK=squad|sst2 NAME=... MODEL=DIR DATA=DIR EXTRA='--num_train_epochs 1'
	$(RUN) benchmarks/methods.py $(TASK) --name $(NAME) --pin $(PIN) --model $(MODEL) --data $(DATA) -- $(EXTRA)

readme: $(READY) ## render the tables in README.md from benchmarks/measured and benchmarks/published.toml
	$(RUN) benchmarks/render.py

bench-step: $(READY) ## time of a QAT step against an FP32 step
	$(RUN) benchmarks/bench_step.py --json benchmarks/measured/bench-step.json $(EXTRA)

bench-methods: $(READY) ## what movement sparsity and distillation add to a QAT step
	$(RUN) benchmarks/bench_methods.py --json benchmarks/measured/bench-methods.json $(EXTRA)

bench-latency: $(READY) ## latency and size of INT8 against FP32 in OpenVINO and ONNX Runtime
	$(RUN) benchmarks/bench_latency.py --json benchmarks/measured/bench-latency.json $(EXTRA)

bench-apply: $(READY) ## time of a warm apply and of apply_patch.py --help
	$(RUN) benchmarks/bench_apply.py $(EXTRA)

bench-drift: $(READY) ## how long a patch lives on upstream's history; speed of drift (UPSTREAM=URL-or-path)
	$(if $(UPSTREAM),$(RUN) apply_patch.py fetch --history --from $(UPSTREAM))
	$(RUN) benchmarks/bench_drift.py --json benchmarks/measured/bench-drift.json $(if $(UPSTREAM),--from $(UPSTREAM)) $(EXTRA)

test: $(READY) ## linters, types and all tests
	$(MAKE) --no-print-directory lint
	$(RUN) -m pytest

lint: $(READY) ## check style, types and patches; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) apply_patch.py lint

format: $(READY) ## mend what the linters can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove build/ and caches; .venv, runs/ and the mirror in the user's cache stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache

distclean: clean ## remove .venv and runs/, too
	rm -rf .venv .venv-* runs
