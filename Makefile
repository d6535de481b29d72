# Everything runs in .venv, which `make setup` builds from requirements.lock. `make help` lists the targets.
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The archive of generated images that `make demo` runs on.
GENERATED := data/generated.tar.gz

# The recipe that is common for this network: Adam, dropout, flips, warps and colours at their published strengths.
CLASSIC := \
	--set-param train.optimizer=adam --set-param train.momentum=0 --set-param train.precision=float32 \
	--set-param train.learning_rate=0.001 --set-param train.weight_decay=0 \
	--set-param train.schedule=constant --set-param train.warmup_fraction=0 --set-param train.batch_size=100 \
	--set-param train.epochs=20 --set-param train.label_smoothing=0 --set-param train.ema_decay=0 \
	--set-param model.dropout=0.5 \
	--set-param augment.flip_probability=0.5 --set-param augment.translation_pixels=0 \
	--set-param augment.rotation_degrees=10 --set-param augment.shear_degrees=10 --set-param augment.scale=0.2 \
	--set-param augment.brightness=0.2 --set-param augment.contrast=0.2 --set-param augment.saturation=0.2 \
	--set-param augment.padding_mode=zeros

# Five epochs to the accuracy that the classic recipe has after twenty.
SHORT := \
	--set-param train.epochs=5 --set-param train.precision=bfloat16 --set-param train.learning_rate=0.05 \
	--set-param train.warmup_fraction=0.2 --set-param train.label_smoothing=0 --set-param train.averaging_decay=0 \
	--set-param model.first_layer=whitened --set-param model.dropout=0 \
	--set-param augment.translation_pixels=1 --set-param augment.rotation_degrees=0 --set-param augment.shear_degrees=0 \
	--set-param augment.scale=0 --set-param augment.brightness=0 --set-param augment.contrast=0 \
	--set-param augment.saturation=0

# An experiment's name is used once; what the old one made comes back from DVC's run-cache.
forget = if dvc exp list --name-only | grep --quiet --line-regexp $(1); then dvc exp remove --quiet $(1); fi

.DEFAULT_GOAL := help
.PHONY: help setup demo repro classic short plots watch test bench bench-short bench-gpu accuracy chaos fuzz lint check lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: .venv/installed  ## Build .venv from the lock of exact versions, again only when the lock changed

.venv/locked: requirements.lock
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@

.venv/installed: .venv/locked pyproject.toml
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	.venv/bin/lenet-cifar10 offline-plots
	touch $@

# DVC 3.67 cannot run an experiment in a copy below a path with other letters.
in_ascii_path = case "$(CURDIR)" in *[!\ -~]*) echo "error: $(CURDIR): DVC needs a path of ASCII letters; clone elsewhere" >&2; exit 1;; esac

demo: setup  ## Run all six stages on generated images, as the experiment "demo" in a copy
	@$(in_ascii_path)
	@echo "Drawing 7,000 images in CIFAR-10's layout to $(GENERATED)"
	@$(call forget,demo)
	sha256=$$(lenet-cifar10 generate $(GENERATED)) && dvc exp run --temp --name demo \
		--set-param 'data.urls=[$(GENERATED)]' \
		--set-param data.sha256=$$sha256 \
		--set-param data.validation_size=1000 \
		--set-param train.epochs=5 --set-param train.batch_size=100 \
		--set-param train.optimizer=adamw --set-param train.momentum=0 \
		--set-param train.learning_rate=0.006 --set-param train.weight_decay=0.05
	@lenet-cifar10 show demo
	@# The experiment twice: beside a workspace without results DVC would warn that there are none.
	@echo "DVC's page of plots:" && dvc plots diff demo demo --out dvc_plots
	@echo "The same and more on one page:" && lenet-cifar10 page demo

repro: setup  ## Run all six stages on CIFAR-10 itself: fetches 170 MB, trains, evaluates
	dvc repro

classic: setup  ## Run the published recipe on CIFAR-10, as the experiment "classic" in a copy; SET="-S ..." adds to it
	@$(in_ascii_path)
	@$(call forget,classic)
	dvc exp run --temp --name classic $(CLASSIC) $(SET)
	@lenet-cifar10 show classic

short: setup  ## Run a recipe of five epochs, for a processor or GPU that computes bfloat16, as the experiment "short"
	@$(in_ascii_path)
	@$(call forget,short)
	dvc exp run --temp --name short $(SHORT) $(SET)
	@lenet-cifar10 show short

plots: setup  ## Draw the run's charts and pictures as one file, and DVC's page; REV="A B" compares
	@lenet-cifar10 page $(REV)
	@dvc plots $(if $(REV),diff $(REV),show)

watch: setup  ## Keep that file up to date while training runs, until Ctrl-C
	@lenet-cifar10 page --watch

test: setup  ## Run the tests
	pytest --numprocesses 2

bench: setup  ## Measure speed beside a DataLoader baseline (after make repro; half an hour)
	PYTHONPATH=tests python -m benchmarks.bench

bench-short: setup  ## The same on fewer images, under two minutes
	PYTHONPATH=tests python -m benchmarks.bench --short

bench-gpu: setup  ## Measure training on the first GPU (after make repro; minutes)
	PYTHONPATH=tests python -m benchmarks.gpu

accuracy: setup  ## Measure what the default and classic recipes reach, five seeds (after make repro; half an hour)
	PYTHONPATH=tests python -m benchmarks.accuracy

chaos: setup  ## Kill some 150 runs at random moments, 60 of them of two processes, and compare what comes out (an hour)
	PYTHONPATH=tests python -m chaos
	PYTHONPATH=tests python -m chaos --processes 2

fuzz: setup  ## Give the readers 27,000 damaged or invented files (minutes)
	FUZZ_INPUTS=3000 pytest tests/test_fuzz.py tests/test_pictures.py::test_a_damaged_image \
		--numprocesses 2 --hypothesis-show-statistics

lint: setup  ## Check style, format and types
	ruff check
	ruff format --check
	pyright

check: lint test  ## Run everything that has to pass before a commit

lock: setup  ## Renew the exact versions within the ranges of pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --strip-extras \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade \
		pyproject.toml --output-file .venv/requirements.lock
	cmp --silent .venv/requirements.lock requirements.lock || cp .venv/requirements.lock requirements.lock

clean:  ## Remove the environment and everything that can be made again; DVC's cache and data stay
	rm -rf .venv .resume .pytest_cache .ruff_cache .hypothesis dvc_plots src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
