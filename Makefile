# Every target sets up what it needs; launchers/setup.sh lists the variables it takes.
NP ?= 2
ARGS ?=
CONTAINER_ENGINE ?= docker
IMAGE ?= dathvd
export VENV ?= $(CURDIR)/.venv
export CONTAINER_ENGINE IMAGE

# MPI refuses root by default; containers and CI are root
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1

run = PATH="$(VENV)/bin:$$PATH"
# three files of tests at a time, also on two cores: ranks that start or wait leave cores idle
parallel = -n 3 --dist loadfile --no-loadscope-reorder

# make setup's interpreter where it is, else the machine's, with packages from the folder
# of wheels WHEELS if that is given: nothing is downloaded
GPU_JSON ?= gpu-benchmark.json
WHEELS ?=
wheels = $(if $(WHEELS),python3 -m pip install -q --no-index --no-deps --upgrade --target build/wheels $(WHEELS)/*.whl &&)
gpu_python = export $(run); $(wheels) PYTHONPATH="build/wheels:$(CURDIR):$$PYTHONPATH" python3

.DEFAULT_GOAL := help
.PHONY: help setup train test test-fast test-tools gpu-test gpu-benchmark lint format lock sbom audit docs clean docker-build docker-train docker-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  NP=4 sets the number of workers, ARGS="..." adds arguments, such as'
	@echo '  make train NP=4 ARGS="--set train.epochs=3"   make test ARGS="-k launch"'

setup: ## set up .venv: system packages, Python packages, Horovod
	@launchers/setup.sh

train: setup ## set up, then train a robust model with NP workers (2)
	$(run) horovodrun -np $(NP) dathvd train $(ARGS)

test-tools: ## install what the tests drive, such as sshd and Slurm, where that may be
	@DATHVD_STAGE=test-tools launchers/setup.sh

test-fast: setup ## set up, then run the quick tests: one process, no ranks, no services
	$(run) OMP_NUM_THREADS=1 python -m pytest -q -m "not slow" tests/single $(ARGS)

test: setup test-tools ## set up, then run the tests
	$(run) python -m pytest $(parallel) $(ARGS)

gpu-test: ## test the GPU path, with python3 as it is and no set-up; Horovod is optional
	$(gpu_python) -m pytest -q tests/gpu tests/single/test_kernels_triton.py $(ARGS)

gpu-benchmark: ## measure one GPU against other loops; writes GPU_JSON (gpu-benchmark.json)
	$(gpu_python) -m dathvd.benchmark.gpu --json $(GPU_JSON) $(ARGS)

lint: setup ## check formatting, style and types
	$(run) black --check . && $(run) isort --check . && $(run) flake8 && $(run) mypy

format: setup ## format the code
	$(run) black -q . && $(run) isort -q .

lock: ## write launchers/locks anew, after a change of what set-up installs
	launchers/lock.sh

sbom: setup ## list what is installed in sbom.json (CycloneDX)
	launchers/inspect.sh sbom sbom.json

audit: setup ## look for known vulnerabilities of what is installed
	launchers/inspect.sh audit

docs: setup ## render the documentation into site/
	$(run) python -m docs.tools.write && $(run) python -m mkdocs build -q && echo "open site/index.html"

clean: ## remove the environment and what tools and builds left (not runs/)
	rm -rf "$(VENV)" build dist site sbom.json *.egg-info .mypy_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

docker-build: ## build the image IMAGE with CONTAINER_ENGINE=docker|podman|buildah
	docker/engine.sh build

docker-train: ## train in the image with NP workers; builds it where it is not there
	NP=$(NP) docker/engine.sh train $(ARGS)

docker-test: ## run the tests in the image; builds it where it is not there
	docker/engine.sh test $(ARGS)
