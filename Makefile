# make demo | test | check | test-compat | test-cuda-fake. Another Python: make demo PYTHON=python3.10
PYTHON = python3
COMPAT_PYTHON = $(shell scripts/find_python.sh 3.10 3.9 3.8)
CUDA_PYTHON = $(shell scripts/find_python.sh 3.11 3.12)
CUDA_TORCH = torch==2.14.1
SHELL = /bin/sh

# The default Python lives in .venv, any other in .venv-<version>.
tag = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV = $(if $(filter python3,$(PYTHON)),.venv,.venv-$(call tag,$(PYTHON)))

# Two torch processes that use all cores spin against each other: tests run in parallel with one thread each.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

.PHONY: help install demo test check lint test-compat test-cuda-fake clean
help:
	@echo 'make install      a virtual environment with everything'
	@echo 'make demo         decode real text with stock fairseq and with EL-attention, side by side'
	@echo 'make test         the whole test suite'
	@echo 'make check        ruff, mypy and the tests'
	@echo 'make test-compat  the test suite on Python 3.10 or older with official fairseq 0.12.2 and torch 1.12.1'
	@echo 'make test-cuda-fake  the tests of device cuda without a card, with a CUDA build of torch (6 GB, in .venv-cuda)'
	@echo 'All install what they need, once. Choose a Python with PYTHON=python3.x (3.8 to 3.13), and a torch with'
	@echo 'TORCH=torch==x.y.z (default: one with kernels for the cards that nvidia-smi shows).'

INSTALLER = setup.py scripts/install.sh scripts/choose_torch.py fairseq_el/cards/torch_builds.py fairseq_el/cards/nvidia_smi.py

$(VENV)/.installed: $(INSTALLER)
	@scripts/install.sh '$(PYTHON)' '$(VENV)'
	@touch $@ $(@D)/.native

# Compiles again what has changed of the C++ sources. install.sh has done it the first time.
%/.native: $(wildcard fairseq_el/csrc/*) | %/.installed
	@scripts/install.sh --native '$*'
	@touch $@

install: $(VENV)/.installed $(VENV)/.native

demo: install
	@$(VENV)/bin/python scripts/demo.py

test: install
	$(PYTEST)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint test

test-compat:
	@if [ -z '$(COMPAT_PYTHON)' ]; then \
	  echo 'make test-compat: skipped: no Python 3.10, 3.9 or 3.8 was found on PATH or among pyenv versions'; \
	else \
	  FAIRSEQ_EL_BEAMS=5 FAIRSEQ_EL_CASES=4 $(MAKE) test PYTHON='$(COMPAT_PYTHON)'; \
	fi

# On Linux, PyPI's is a CUDA build; another index may not be.
.venv-cuda/.installed: $(INSTALLER)
	@TORCH='$(CUDA_TORCH)' scripts/install.sh '$(CUDA_PYTHON)' .venv-cuda
	@.venv-cuda/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None and \
	  "make test-cuda-fake: error: pip found a CPU build of torch; point it to an index with CUDA builds, as PyPI is")'
	@touch $@ $(@D)/.native

test-cuda-fake:
	@if [ -z '$(CUDA_PYTHON)' ]; then \
	  echo 'make test-cuda-fake: skipped: no Python 3.11 or 3.12 was found on PATH or among pyenv versions'; \
	else \
	  $(MAKE) --no-print-directory .venv-cuda/.installed .venv-cuda/.native && \
	  OMP_NUM_THREADS=1 .venv-cuda/bin/python -m pytest tests/cuda/test_fake_card.py; \
	fi

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
