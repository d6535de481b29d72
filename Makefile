# Everything runs in .venv, which `make setup` builds from requirements.lock. `make help` lists the targets.
PYTHON ?= python3.11
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# The archive of generated images that `make demo` runs on.
GENERATED := data/generated.tar.gz

.DEFAULT_GOAL := help
.PHONY: help setup demo repro classic test lint check lock clean

help:  ## List the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: .venv/installed  ## Build .venv from the lock of exact versions, again only when the lock changed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup  ## Run all five stages on generated images, as the experiment "demo" in a copy
	lenet-cifar10 demo

repro: setup  ## Run all five stages on CIFAR-10 itself: fetches 170 MB, trains, evaluates
	dvc repro

classic: setup  ## Run the published recipe as the experiment "classic" in a copy
	lenet-cifar10 classic

test: setup  ## Run the tests
	pytest --numprocesses 2

lint: setup  ## Check style, format and types
	ruff check
	ruff format --check
	pyright

check: lint test  ## Run everything that has to pass before a commit

lock: setup  ## Renew the exact versions within the ranges of pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --strip-extras \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --upgrade \
		pyproject.toml --output-file requirements.lock

clean:  ## Remove the environment and everything that can be made again; DVC's cache and data stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis dvc_plots src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
