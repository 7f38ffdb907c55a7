# Set-up, search, tests and checks. `make search` and `make test` need only Python >= 3.11, make and a network.
PYTHON ?= .venv/bin/python
BASE_PYTHON ?= python3
CONF ?= osa_digits

.PHONY: setup search test check format gpu-check benchmarks

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
	$(dir $(PYTHON))lint-imports

format: $(READY)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# Needs neither an installed package nor a network. The table is printed even when a test fails; the tests' exit code comes first.
gpu-check: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
gpu-check: $(READY)
	@tests=0; $(PYTHON) -m pytest -m gpu -q -p no:cacheprovider $(ARGS) tests/measure tests/train || tests=$$?; \
	table=0; $(PYTHON) benchmarks/gpu_check.py --device cuda || table=$$?; \
	exit $$((tests ? tests : table))
