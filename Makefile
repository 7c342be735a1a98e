# Every target makes its own environment (.venv) first, from the exact versions in constraints.txt.
# `make PYTHON=/path/to/python3.11 test` picks an interpreter.

CANDIDATES := python3 python3.11 python3.12 python3.13 python3.14
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.interp-stamp

.PHONY: demo test test-all test-processors bench lint environment
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo 'make demo      from nothing to interp-demo/report.html: no network after the install'
	@echo 'make test      lint, types and the push suite'
	@echo 'make test-all  the same at full size, with the branches that no test takes'
	@echo 'make test-processors  the push suite as other processors compute it: three instruction sets,'
	@echo '               one and two threads; ARGS="--only avx2-2 --busy 2" for less, or under load'
	@echo 'make bench     us and the peers in one run'
	@echo 'make lint      ruff and pyright only'

# The stamp goes first and comes back last: an install that was cut short is repeated, not trusted.
# A folder that was moved carries dead paths in its environment, so the stamp names its place.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'interp needs Python 3.11 or newer; none of these is: $(CANDIDATES).'; \
		echo '  fix: install one, or make PYTHON=/path/to/python3.11 demo'; exit 1; }
	@rm -f $(STAMP)
	@test -x $(RUN) && $(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
		echo 'The environment could not be made with $(PYTHON).'; \
		echo '  fix: on Debian or Ubuntu, apt-get install python3-venv'; exit 1; }
	@echo 'Installing into $(VENV) (once; a few minutes, about 3 GB) ...'
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,notebooks,static]'
	@echo '$(CURDIR)' > $(STAMP)

environment:
	@test "$$(cat $(STAMP) 2>/dev/null)" = '$(CURDIR)' || rm -f $(STAMP)
	@$(MAKE) --no-print-directory --silent $(STAMP)

demo: environment
	@$(RUN) -m interp demo

lint: environment
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --threads

test: lint
	$(RUN) -m pytest -n auto

test-all: lint
	INTERP_FULL=1 $(RUN) -m pytest -n auto --cov --cov-report=term --cov-fail-under=95

test-processors: environment
	$(RUN) scripts/test_processors.py $(ARGS)

bench: environment
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(RUN) "$$script"; done
