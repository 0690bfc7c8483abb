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
TEACHER ?=
RECIPE ?=
EMBEDDING ?=
DOCS   ?=
INT8   ?=

# A pin whose library is not that of requirements.txt has requirements and an environment of its own.
OWN  := $(if $(wildcard requirements-$(PIN).txt),-$(PIN))
VENV := .venv$(OWN)
# The library of 2019 comes from the pin's own checkout.
CHECKOUT := $(if $(filter v2.2,$(PIN)),$(CURDIR)/build/$(PIN))
RUN  := $(VENV)/bin/python
# Installed when this stamp is newer than the requirements: an interrupted installation leaves no stamp. The project
# itself is installed in place, for its commands export_onnx and benchmark. The .pth file lets the patched scripts find
# nncf_transformers and the checkout, however they are started.
READY := $(VENV)/.ready
PEERS := .venv-peers

# NNCF and OpenVINO report their use over the network unless told not to.
export OPENVINO_TELEMETRY_DISABLE ?= 1

flags = --pin $(PIN) --nproc $(NPROC) $(if $(MODEL),--model $(MODEL)) $(if $(DATA),--data $(DATA)) \
	$(if $(OUT),--out $(OUT)) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch $(BATCH)) \
	$(if $(EXTRA)$(RECIPE),-- $(EXTRA) $(if $(RECIPE),--recipe $(RECIPE) --distill_teacher $(or $(TEACHER),disable)))

# The scripts of our own: one process, or several; a data folder with SQuAD's two files.
own = $(RUN) $(if $(filter-out 1,$(NPROC)),-m torch.distributed.run --standalone --nproc-per-node=$(NPROC))
squad = $(if $(DATA),,$(error DATA=DIR is needed, a folder with train-v1.1.json and dev-v1.1.json)) \
	--squad_train_data=$(DATA)/train-v1.1.json --squad_dev_data=$(DATA)/dev-v1.1.json \
	$(if $(EPOCHS),--num_train_epochs=$(EPOCHS)) $(if $(BATCH),--per_gpu_train_batch_size=$(BATCH)) $(EXTRA)
sizes = num_hidden_layers:12,ff_iter_num:4,num_attention_heads:8,hidden_size:512,pack_emb:1,hidden_act:orig
reader = --model $(or $(MODEL),runs/qa/packed-int8/openvino)
finder = --embedding $(or $(EMBEDDING),runs/emb/packed-int8/openvino) --input $(DOCS)

# Tests that apply pins in this checkout by themselves, and those that start processes; of these and of all others, two
# run at a time.
ALONE := tests/test_project.py
TOOLS := tests/demo tests/kernels tests/overlay tests/scripts

.DEFAULT_GOAL := help
.PHONY: help setup fetch apply revert status squad-fp32 squad-int8 squad-jpqd xnli-fp32 xnli-int8 mnli-int8 sst2-int8 mrpc-int8 \
	squad-distilbert-int8 squad-mobilebert-int8 squad-sparseml-int8 glue-transfer-int8 \
	squad-adapter squad-adapter-int8 squad-v2-adapter squad-v2-adapter-int8 seq2seq-qa seq2seq-qa-int8 mlm mlm-int8 clm clm-int8 \
	demo test lint format clean distclean bench-step bench-methods bench-latency bench-pipeline bench-apply bench-drift measure methods readme \
	drift rebase matrix pack qa-pack-int8 emb emb-pack emb-int8 qa-search qa-web bench-retrieval bench-mining measure-packed measure-lm measure-adapters tables bench-peers

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-21s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: PIN MODEL DATA OUT EPOCHS BATCH NPROC EXTRA; TO AS UPSTREAM. For example"
	@echo "  make squad-int8 MODEL=DIR DATA=DIR EPOCHS=1 EXTRA='--max_train_samples 1000'"

setup: $(READY) ## make .venv (or .venv-PIN) and install the pinned requirements into it

$(READY): requirements-common.txt requirements$(OWN).txt requirements$(OWN).lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 12) else "error: Python 3.11 or 3.12 is needed, this is %d.%d; run make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements$(OWN).txt -c requirements$(OWN).lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
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

squad-distilbert-int8: $(READY) ## optimum-intel's short example: DistilBERT on 1,024 questions
	$(RUN) scripts/train.py squad-distilbert --int8 $(flags)

squad-mobilebert-int8: $(READY) ## MobileBERT on SQuAD
	$(RUN) scripts/train.py squad-mobilebert --int8 $(flags)

squad-sparseml-int8: $(READY) ## a recipe on SQuAD: make squad-sparseml-int8 RECIPE=nncf_configs/recipes/FILE TEACHER=DIR MODEL=google-bert/bert-base-uncased
	$(RUN) scripts/train.py squad-sparseml --int8 $(flags)

glue-transfer-int8: $(READY) ## sparse transfer: train a pruned encoder on SST-2 (RECIPE=FILE; EXTRA='--task_name mnli')
	$(RUN) scripts/train.py glue-transfer --int8 $(flags)

squad-adapter: $(READY) ## train an adapter and a head for SQuAD; BERT-base stays as it is (EXTRA='--adapter_config lora' for another adapter)
	$(RUN) scripts/train.py squad-adapter $(flags)

squad-adapter-int8: $(READY) ## the same on an INT8 model that stays as it is, that of squad-int8 or MODEL=DIR; export
	$(RUN) scripts/train.py squad-adapter --int8 $(flags)

squad-v2-adapter: $(READY) ## train an adapter and a head for SQuAD 2.0; RoBERTa-base stays as it is (DATA=DIR has train-v2.0.json, dev-v2.0.json)
	$(RUN) scripts/train.py squad-v2-adapter $(flags)

squad-v2-adapter-int8: $(READY) ## the same on an INT8 model that stays as it is, that of squad-int8 or MODEL=DIR; export
	$(RUN) scripts/train.py squad-v2-adapter --int8 $(flags)

seq2seq-qa: $(READY) ## fine-tune T5-small to write the answers of SQuAD 2.0 (EXTRA='--train_adapter': an adapter; so for the next two)
	$(RUN) scripts/train.py seq2seq-qa $(flags)

seq2seq-qa-int8: $(READY) ## quantization-aware training of what seq2seq-qa made, evaluation, export of encoder and decoder
	$(RUN) scripts/train.py seq2seq-qa --int8 $(flags)

mlm: $(READY) ## fine-tune RoBERTa-base on masked tokens of WikiText-2 (DATA=DIR has wiki.train.raw, wiki.valid.raw)
	$(RUN) scripts/train.py mlm $(flags)

mlm-int8: $(READY) ## quantization-aware training of what mlm made, evaluation, export
	$(RUN) scripts/train.py mlm --int8 $(flags)

clm: $(READY) ## fine-tune GPT-2 on WikiText-2 (DATA=DIR has wiki.train.raw, wiki.valid.raw)
	$(RUN) scripts/train.py clm $(flags)

clm-int8: $(READY) ## quantization-aware training of what clm made, evaluation, export
	$(RUN) scripts/train.py clm --int8 $(flags)

pack: $(READY) ## make a question-answering model smaller and distil it: make pack MODEL=DIR DATA=DIR
	$(own) scripts/pack_and_distill.py --model_student=$(or $(MODEL),runs/$(PIN)/squad-fp32) \
		--model_teacher=$(or $(TEACHER),$(MODEL),runs/$(PIN)/squad-fp32) --output_dir=$(or $(OUT),runs/qa/packed) \
		--pack_cfg=$(sizes) --loss_weight_alpha=1.5 --learning_rate=5e-4 --learning_rate_for_tune=10e-4 \
		--num_train_epochs=16 --max_seq_length_q=64 --per_gpu_train_batch_size=4 --total_train_batch_size=32 \
		--total_train_batch_size_for_tune=64 $(squad)

qa-pack-int8: $(READY) ## quantize the packed model, the large one is its teacher: make qa-pack-int8 TEACHER=DIR DATA=DIR
	$(own) scripts/train_qa.py --model_student=$(or $(MODEL),runs/qa/packed) \
		--model_teacher=$(or $(TEACHER),runs/$(PIN)/squad-fp32) --output_dir=$(or $(OUT),runs/qa/packed-int8) \
		--nncf_config=nncf_config.json --freeze_list=none --supervision_weight=0.02 --kd_weight=1 --learning_rate=1e-4 \
		--num_train_epochs=16 --per_gpu_train_batch_size=8 --total_train_batch_size=32 $(squad)

emb: $(READY) ## train embeddings of questions and contexts: make emb MODEL=ENCODER DATA=DIR
	$(own) scripts/train_qcemb.py --model_student=$(or $(MODEL),google-bert/bert-large-uncased-whole-word-masking) \
		--model_teacher=$(or $(TEACHER),$(MODEL),google-bert/bert-large-uncased-whole-word-masking) \
		--output_dir=$(or $(OUT),runs/emb/fp32) --freeze_list=embedding --supervision_weight=0.02 --hnm_batch_size=8 \
		--loss_cfg=triplet_num:1,emb_loss:none --learning_rate=3e-5 --num_train_epochs=4 --per_gpu_train_batch_size=2 \
		--total_train_batch_size=32 $(squad)

emb-pack: $(READY) ## make an embedding model smaller and distil it
	$(own) scripts/pack_and_distill.py --model_student=$(or $(MODEL),runs/emb/fp32) \
		--model_teacher=$(or $(TEACHER),$(MODEL),runs/emb/fp32) --output_dir=$(or $(OUT),runs/emb/packed) \
		--pack_cfg=$(sizes) --loss_weight_alpha=1.5 --learning_rate=3e-4 --num_train_epochs=16 --max_seq_length_q=32 \
		--per_gpu_train_batch_size=4 --total_train_batch_size=32 $(squad)

emb-int8: $(READY) ## quantize the packed embedding model, the large one is its teacher
	$(own) scripts/train_qcemb.py --model_student=$(or $(MODEL),runs/emb/packed) \
		--model_teacher=$(or $(TEACHER),runs/emb/fp32) --output_dir=$(or $(OUT),runs/emb/packed-int8) \
		--nncf_config=nncf_config.json --freeze_list=none --supervision_weight=0.02 --hnm_batch_size=8 \
		--loss_cfg=triplet_num:1,emb_loss:L2 --learning_rate=3e-5 --num_train_epochs=16 --per_gpu_train_batch_size=8 \
		--total_train_batch_size=32 $(squad)

qa-search: $(READY) ## ask questions about a folder of documents: make qa-search DOCS=DIR (EMBEDDING=IR-DIR MODEL=IR-DIR)
	$(if $(DOCS),,$(error DOCS=DIR is needed, a folder with text files))$(RUN) scripts/qa_search_demo.py $(reader) $(finder) $(EXTRA)

qa-web: $(READY) ## ask about a text, or about the documents in DOCS, in a web page on this machine
	$(RUN) scripts/qa_web.py $(reader) $(if $(DOCS),$(finder)) $(EXTRA)

demo: $(READY) ## the whole way on a small model and generated data, offline, in a few minutes
	$(RUN) scripts/demo.py

measure: $(READY) ## FP32, PTQ and QAT on local data: make measure TASK=squad NAME=... MODEL=DIR DATA=DIR
	$(RUN) benchmarks/measure.py $(TASK) --name $(NAME) --pin $(PIN) --model $(MODEL) --data $(DATA) -- $(EXTRA)

methods: $(READY) ## all compression methods on local data with one budget: make methods TASK=squad|sst2 NAME=... MODEL=DIR DATA=DIR EXTRA='--num_train_epochs 1'
	$(RUN) benchmarks/methods.py $(TASK) --name $(NAME) --pin $(PIN) --model $(MODEL) --data $(DATA) -- $(EXTRA)

measure-packed: $(READY) ## large, packed, INT8: make measure-packed TASK=qa|embeddings NAME=... MODEL=DIR DATA=DIR EXTRA='--title "..."'
	$(RUN) benchmarks/packed.py $(TASK) --name $(NAME) --model $(MODEL) --data $(DATA) $(EXTRA)

measure-adapters: $(READY) ## adapters against full fine-tuning, FP32 and INT8: make measure-adapters NAME=... MODEL=ENCODER DATA=DIR EXTRA='--max_steps 300'
	$(RUN) benchmarks/adapter_rows.py --name $(NAME) --pin $(PIN) --model $(MODEL) --data $(DATA) -- $(EXTRA)

measure-lm: $(READY) ## perplexity of a small GPT-2 in FP32 and INT8: make measure-lm NAME=... DATA=TEXT-FILE|DIR EXTRA='--title "..."'
	$(RUN) benchmarks/language.py --name $(NAME) --pin $(PIN) --data $(or $(DATA),$(error DATA=FILE or DATA=DIR is needed, a text of articles)) $(EXTRA)

tables: $(READY) ## the published tables, made again: make tables SCALE=smoke|cpu|full TASK=... DATA=DIR MODEL=ENCODER (QA_MODEL=DIR)
	$(RUN) benchmarks/tables.py --scale $(or $(SCALE),smoke) --pin $(PIN) $(if $(filter-out file,$(origin TASK)),--task $(TASK)) \
		$(if $(DATA),--data $(DATA)) $(if $(MODEL),--model $(MODEL)) $(if $(QA_MODEL),--qa-model $(QA_MODEL)) $(if $(OUT),--out $(OUT))

readme: $(READY) ## render the tables in README.md from benchmarks/measured and benchmarks/published.toml
	$(RUN) benchmarks/render.py

bench-step: $(READY) ## time of a QAT step against an FP32 step
	$(RUN) benchmarks/bench_step.py --json benchmarks/measured/bench-step.json $(EXTRA)

bench-methods: $(READY) ## what movement sparsity and distillation add to a QAT step
	$(RUN) benchmarks/bench_methods.py --json benchmarks/measured/bench-methods.json $(EXTRA)

bench-retrieval: $(READY) ## search in 100,000 passages: build rate, query latency, recall
	$(RUN) benchmarks/bench_retrieval.py --json benchmarks/measured/bench-retrieval.json $(EXTRA)

bench-mining: $(READY) ## what part of a training step the search for hard negatives takes
	$(RUN) benchmarks/bench_mining.py --json benchmarks/measured/bench-mining.json $(EXTRA)

bench-latency: $(READY) ## latency and size of INT8 against FP32 in OpenVINO and ONNX Runtime
	$(RUN) benchmarks/bench_latency.py --json benchmarks/measured/bench-latency.json $(EXTRA)

bench-pipeline: $(READY) ## what a pipeline adds to the bare model: question answering and text classification
	$(RUN) benchmarks/bench_pipeline.py --json benchmarks/measured/bench-pipeline.json $(EXTRA)

bench-apply: $(READY) ## time of a warm apply and of apply_patch.py --help
	$(RUN) benchmarks/bench_apply.py $(EXTRA)

# Other projects' quantization, in an environment of its own. optimum-intel names torchvision, which text has no use for;
# where it is made for another build of torch than the one installed, Transformers cannot be loaded beside it.
$(PEERS)/.ready: requirements-peers.txt requirements-peers.lock
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt -c requirements-peers.lock
	$(PEERS)/bin/python -c 'import torchvision' 2> /dev/null || $(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

bench-peers: $(READY) $(PEERS)/.ready ## other projects' INT8 and ours on one model: make bench-peers MODEL=DIR DATA=DIR INT8=DIR
	$(RUN) -m benchmarks.peers --model $(or $(MODEL),$(error MODEL=DIR is needed, an FP32 checkpoint)) \
		--data $(or $(DATA),$(error DATA=DIR is needed, a folder with train-v1.1.json and dev-v1.1.json)) \
		$(if $(INT8),--int8 $(INT8)) --peers $(PEERS) $(EXTRA)

bench-drift: $(READY) ## how long a patch lives on upstream's history; speed of drift (UPSTREAM=URL-or-path)
	$(if $(UPSTREAM),$(RUN) apply_patch.py fetch --history --from $(UPSTREAM))
	$(RUN) benchmarks/bench_drift.py --json benchmarks/measured/bench-drift.json $(if $(UPSTREAM),--from $(UPSTREAM)) $(EXTRA)

test: $(READY) ## linters, types and all tests
	$(MAKE) --no-print-directory lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal $(ALONE:%=--ignore=%) $(TOOLS:%=--ignore=%)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal $(TOOLS)
	$(RUN) -m pytest $(ALONE)

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
