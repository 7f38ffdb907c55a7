# Set-up, search, tests and checks. `make search` and `make test` need only Python >= 3.11, make and a network.
PYTHON ?= .venv/bin/python
BASE_PYTHON ?= python3
CONF ?= osa_digits

.PHONY: setup search test check format gpu-check

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make BASE_PYTHON=python3.12 ...")'
	$(BASE_PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# With PYTHON=... an environment that is already there is used as it is.
ifeq ($(PYTHON),.venv/bin/python)
READY := .venv/ready
endif

search: $(READY)
	$(PYTHON) -m nas.search conf=$(CONF) $(ARGS)

test: $(READY)
	$(PYTHON) -m pytest -n 2 $(ARGS)

check: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'
	$(PYTHON) tests/audit.py

format: $(READY)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# The parts of the GPU check; none needs this package installed or a network, and each ends in a table within 9 minutes.
# gpu-train needs more packages: optuna and scikit-learn, and for its last command pebble and pydantic. IMAGES=FOLDER (train/<class>/*) trains on files.
GPU_PARTS := gpu-test gpu-candidates gpu-latency gpu-energy gpu-ranking gpu-train
.PHONY: $(GPU_PARTS)
gpu-check $(GPU_PARTS): export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu-check: $(GPU_PARTS)

gpu-test: $(READY)
	$(PYTHON) -m pytest -m gpu -q -p no:cacheprovider $(ARGS) tests/measure tests/train

gpu-candidates: $(READY)
	$(PYTHON) benchmarks/gpu_check.py --device cuda

gpu-latency: $(READY)
	$(PYTHON) benchmarks/repeat_latency.py --device cuda

gpu-energy: $(READY)
	$(PYTHON) benchmarks/repeat_energy.py --device cuda

gpu-ranking: $(READY)
	$(PYTHON) benchmarks/rank_twice.py --device cuda

gpu-train: FILES := $(if $(IMAGES),--folder $(IMAGES))
gpu-train: $(READY)
	$(PYTHON) benchmarks/train_throughput.py --device cuda --model small --images 50000 --batch-size 512 --workers 8 $(FILES)
	$(PYTHON) benchmarks/train_throughput.py --device cuda --model vovnet27_slim_cifar --images 50000 --batch-size 512 --workers 8 $(FILES)
	$(PYTHON) benchmarks/compile_or_not.py --device cuda --batch-size 512
	$(PYTHON) benchmarks/step_profile.py --device cuda
	$(PYTHON) benchmarks/workers.py --device cuda --workers 1,2,4 --candidates 8 --rounds 3 \
		$(if $(IMAGES),--images $(IMAGES) --batch-size 512 --epochs 2,--image-size 32)
