# Everything from nothing but Python >= 3.11 and make. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --constraint constraints.txt
PINS := pyproject.toml constraints.txt

# Test processes; each one computes on a single thread.
WORKERS ?= 2
# Those of `make test-gpu`: nearly all of its time is compilation, whose results they share.
GPU_WORKERS ?= 8
# Stores and latency runs whose tables and figures `make figures` rebuilds.
RUN ?= $(sort $(patsubst %/cells/,%,$(wildcard results/*/cells/ results/*/*/cells/)) \
         $(patsubst %/cells.jsonl,%,$(wildcard results/*/cells.jsonl results/*/*/cells.jsonl)) \
         $(patsubst %/latency.csv,%,$(wildcard results/*/latency.csv results/*/*/latency.csv)))
# More settings for `make run` and `make bench`, such as ARGS='samples=2 lengths=[4096]'.
ARGS ?=

REAL_MODEL := smollm2_135m

.PHONY: help install run run-real run-video bench test test-exhaustive test-gpu lint figures clean

help:
	@echo 'make run      install if needed, run the default experiment, print the table (ARGS=... adds settings)'
	@echo 'make run-real fetch a small language model (98 MB, once) and do the same with it'
	@echo 'make run-video the same on clips and a small vision-language model, both included'
	@echo 'make bench    time kernels, methods and whole prefills on the GPU at hand (ARGS=... adds settings)'
	@echo 'make test     install if needed, run all tests that need no GPU'
	@echo 'make test-exhaustive what it leaves out: every combination of settings of the kernels, more kills'
	@echo 'make test-gpu run the tests of kernels on a GPU, with real Triton'
	@echo 'make lint     ruff and mypy'
	@echo 'make figures  rebuild tables and figures from the stored samples (RUN=folder: of one store, report.html too; PDF=1 adds PDF)'
	@echo 'make install  only create $(VENV)'
	@echo 'make clean    remove $(VENV) and caches; results stay'
	@echo 'PYTHON=...    the interpreter that makes $(VENV), 3.11 or newer'

install: $(VENV)/installed

run: $(VENV)/installed
	$(PY) -m rr_bench $(ARGS)

run-real: $(VENV)/installed-gguf
	$(PY) -m rr_bench.download model $(REAL_MODEL)
	$(PY) -m rr_bench +experiment=real_laptop $(ARGS)

run-video: $(VENV)/installed-video
	$(PY) -m rr_bench +experiment=video_probe $(ARGS)

bench: $(VENV)/installed
	$(PY) -m rr_bench +experiment=latency $(ARGS)

test: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest tests --ignore tests/interpreter -n $(WORKERS)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PY) -m pytest tests/interpreter -n $(WORKERS)

test-exhaustive: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest tests --ignore tests/interpreter -n $(WORKERS) -m exhaustive
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(PY) -m pytest tests/interpreter -n $(WORKERS) -m exhaustive

test-gpu: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest tests -m '(gpu or interpreter) and not exhaustive' \
	  -n $(GPU_WORKERS) --dist worksteal

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

figures: $(VENV)/installed
	@test -n '$(RUN)' || { echo 'nothing under results/: name a folder with RUN=folder'; exit 1; }
	@printf '%s\n' $(RUN) | xargs -n 6 -P $(WORKERS) $(PY) -m rr_bench.report \
	  $(if $(PDF),,--no-pdf) $(if $(filter command line,$(origin RUN)),,--no-page)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo '$(PYTHON) is older than Python 3.11: set PYTHON=/path/to/a/newer/python3'; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps make pip run again only when the pins change.
$(VENV)/installed: $(PINS) | $(PY)
	@echo 'installing into $(VENV): some minutes and gigabytes, once'
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-gguf: $(VENV)/installed
	$(PIP_INSTALL) --editable '.[gguf]'
	@touch $@

$(VENV)/installed-video: $(VENV)/installed
	$(PIP_INSTALL) --editable '.[video]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP_INSTALL) --editable '.[test,lint]'
	@touch $@
