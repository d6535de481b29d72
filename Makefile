# Everything runs in .venv, which `make setup` builds from requirements.lock; the tests' and linters' packages come from
# requirements-dev.lock. `make help` lists the targets. PYTHON=... chooses another Python than the newest that suits,
# LOCK=requirements-cpu.lock PyTorch without CUDA.
LOCK ?= requirements.lock
PYTHON ?= $(shell for name in python3.14 python3.13 python3.12 python3.11; do \
	$$name -c "" 2> /dev/null && echo $$name && exit; done; echo python3)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The archive of generated images that `make demo` runs on.
GENERATED := data/generated.tar.gz

# The common recipe for this network: Adam, dropout, flips, warps and colours at their published strengths.
CLASSIC := $(addprefix --set-param ,\
	train.precision=float32 train.epochs=20 \
	train.optimizer=adam train.momentum=0 train.learning_rate=0.001 train.weight_decay=0 train.schedule=constant \
	train.warmup_fraction=0 train.batch_size=100 train.label_smoothing=0 train.ema_decay=0 model.dropout=0.5 \
	augment.flip_probability=0.5 augment.translation_pixels=0 augment.rotation_degrees=10 augment.shear_degrees=10 augment.scale=0.2 \
	augment.brightness=0.2 augment.contrast=0.2 augment.saturation=0.2 augment.padding_mode=zeros)

# DVC 3.67 cannot run an experiment in a copy below a path with other letters. An experiment's name is used once; what
# the one before made comes back from DVC's run-cache.
run = if [ "$$(git rev-parse --is-shallow-repository)" = true ]; then \
	echo "error: this is a shallow clone, where DVC loses experiments; run git fetch --unshallow" >&2; exit 1; fi; \
	case "$(CURDIR)" in *[!\ -~]*) echo "error: $(CURDIR): DVC needs a path of ASCII letters; clone elsewhere" >&2; exit 1;; esac; \
	if dvc exp list --name-only | grep --quiet --line-regexp $(1); then dvc exp remove --quiet $(1); fi; \
	dvc exp run --temp --name $(1)

.DEFAULT_GOAL := help
.PHONY: help setup demo repro classic plots watch verify test test-all lint check lock clean
.PHONY: bench bench-short bench-graphs accuracy kills

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s%s\n", $$1, $$2 }' Makefile

setup: .venv/installed  ## Build .venv from the lock of exact versions, again only when the lock has changed

pip = .venv/bin/python -m pip install --quiet --disable-pip-version-check $(if $(findstring cpu,$(LOCK)),--no-compile)

.venv/locked: $(LOCK)
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))" || \
		{ echo "error: $(PYTHON): expected Python 3.11 to 3.14; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(pip) --requirement $(LOCK)
	touch $@

.venv/installed: .venv/locked pyproject.toml
	$(pip) --no-deps --no-build-isolation --editable .
	.venv/bin/lenet-cifar10 offline-plots
	touch $@

.venv/developed: .venv/installed requirements-dev.lock
	$(pip) --requirement requirements-dev.lock
	touch $@

demo: setup  ## Run all stages on generated images, as the experiment "demo" in a copy
	sha256=$$(lenet-cifar10 generate $(GENERATED)) && $(call run,demo) \
		--set-param 'data.urls=[$(GENERATED)]' --set-param data.sha256=$$sha256 --set-param data.validation_size=1000 \
		--set-param train.epochs=5 --set-param train.batch_size=100 --set-param train.optimizer=adamw \
		--set-param train.momentum=0 --set-param train.learning_rate=0.006 --set-param train.weight_decay=0.05
	@lenet-cifar10 page demo

repro: setup  ## Run all stages on CIFAR-10: download 170 MB, train, evaluate
	dvc repro

classic: setup  ## Run the common recipe on CIFAR-10, as the experiment "classic" in a copy; SET="-S ..." adds to it
	@$(call run,classic) $(CLASSIC) $(SET)

plots: setup  ## Write the page of charts and pictures, and DVC's own page; REV="A B" compares
	@lenet-cifar10 page $(REV)
	@dvc plots $(if $(REV),diff $(REV),show)

watch: setup  ## Keep the page up to date while training runs, until Ctrl-C
	@lenet-cifar10 page --watch

verify: setup  ## Compare every byte of the outputs with dvc.lock, and of the cache with its names
	@d=$$(mktemp -d); DVC_SITE_CACHE_DIR=$$d dvc status -q || \
		{ echo "unless changed on purpose, restore with: git restore metrics plots && DVC_SITE_CACHE_DIR=$$d dvc checkout --force"; \
		exit 1; }
	@cd .dvc/cache/files/md5 && find . -type f ! -name '*.dir' | while read -r file; do \
		echo "$$(echo $$file | tr -d ./)  $$file"; done | md5sum --check --quiet

test: .venv/developed  ## Run the tests that a change should pass (minutes)
	pytest --numprocesses 2

test-all: .venv/developed  ## Run all tests, also the slow ones
	pytest --numprocesses 2 -m ''

lint: .venv/developed  ## Check style, format and types
	ruff check
	ruff format --check
	pyright

check: lint test  ## Run what has to pass before a commit

bench: .venv/developed  ## Measure speed beside a DataLoader baseline (after make repro; half an hour)
	PYTHONPATH=tests python -m benchmarks.bench

bench-short: .venv/developed  ## The same on fewer images, under two minutes
	PYTHONPATH=tests python -m benchmarks.bench --short

bench-graphs: .venv/developed  ## Measure the recorded step on the first GPU (under six minutes)
	PYTHONPATH=tests python -m benchmarks.graphs

accuracy: .venv/developed  ## Measure five seeds of the default and of the common recipe (after make repro; half an hour)
	PYTHONPATH=tests python -m benchmarks.accuracy

kills: .venv/developed  ## Kill 60 runs at random moments and compare what comes out (a quarter of an hour)
	PYTHONPATH=tests python -m kills --kills 60

# The same versions on every Python. The CPU's lock has PyTorch's builds without CUDA, and not what CUDA needs.
compile = uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --strip-extras --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml

lock: .venv/developed  ## Renew the exact versions within the ranges of pyproject.toml
	$(compile) --extra dev --upgrade --output-file .venv/all.lock
	$(compile) --constraint .venv/all.lock --output-file requirements.lock
	grep -vxFf requirements.lock .venv/all.lock > requirements-dev.lock
	sed -E '/^(nvidia|cuda|triton)/d; s/^(torch(vision)?==[0-9.]+)/\1+cpu/' requirements.lock > requirements-cpu.lock

clean:  ## Remove the environment and everything that can be made again; DVC's cache and data stay
	rm -rf .venv .checkpoints .pytest_cache .ruff_cache .hypothesis dvc_plots src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
