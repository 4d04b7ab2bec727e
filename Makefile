# Every verb does its own set-up. Variables may be given on the command line: make test FASTLOSS_CPP=0
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
FASTLOSS_CPP ?= auto
FASTLOSS_CUDA ?= auto
# The second torch of test-full, which runs the binary that was built on the first.
TORCH2 ?= torch==2.15.0
VENV2 ?= .venv-torch2
# Its second Triton, in a folder of its own; the interpreter of 3.6 needs a NumPy before 2.4.
TRITON2 ?= triton==3.6.0 numpy==2.3.5
# Processes that share the tests; auto: one per core, 0: none but pytest itself (for --pdb).
WORKERS ?= auto
# Random calls of each op under the sanitizers.
CASES ?= 2000
# gpu-check uses this Python, with the torch and the Triton it has.
GPU_PYTHON ?= python3
GPU_STEPS := build selftest tests sanitizer bench

export FASTLOSS_CPP FASTLOSS_CUDA
export FASTLOSS_REFERENCES := $(abspath $(VENV))/references
export FASTLOSS_TRITON2 := $(abspath $(VENV))/triton2
export FASTLOSS_PYTHON2 := $(abspath $(VENV2))/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PY := $(VENV)/bin/python
SHARED = -n $(WORKERS) --maxprocesses 8 --dist worksteal
SOURCES := setup.py pyproject.toml fastloss/_version.py $(shell find csrc -type f -not -name '*.pyc')

.PHONY: help demo demo-segmentation test test-full asan bench lint format clean gpu-check $(GPU_STEPS:%=gpu-%) FORCE
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON VENV TORCH TRITON TORCH2 TRITON2 WORKERS CASES FASTLOSS_CPP FASTLOSS_CUDA CXX MAX_JOBS GPU_PYTHON COMMIT"

demo: $(VENV)/built  ## train a small detector on a real image, with plain losses and with fastloss
	$(PY) examples/train_detector.py
	$(PY) examples/train_detector.py --loss uotod-sinkhorn --seeds 1

demo-segmentation: $(VENV)/built  ## train a small U-Net on the same image: Lovász, boundary and OHEM losses
	$(PY) examples/train_segmenter.py

test: $(VENV)/built $(VENV)/references.done  ## the test suite (add ARGS="-k focal" to choose)
	$(PY) -m pytest $(SHARED) $(ARGS)

test-full: $(VENV)/built $(VENV)/references.done $(VENV2)/installed $(VENV)/triton2.done
test-full:  ## all tests, also the long ones, sanitizers, a second torch and a second Triton
	$(PY) tests/full_check.py $(CASES) $(SHARED)

asan: $(VENV)/built  ## random calls of every op (CASES=2000 each) under address and UB sanitizers
	$(PY) tests/corpus/sanitize.py $(CASES)

bench: $(VENV)/built  ## time and memory against eager PyTorch and torch.compile
	$(PY) -m bench $(ARGS)

lint: $(VENV)/built  ## what continuous integration checks besides the tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(NATIVE)

format: $(VENV)/built  ## rewrite the sources in the one format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(NATIVE)

lint format: NATIVE = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

clean:  ## remove what was built and both environments
	rm -rf $(VENV) $(VENV2) build dist *.egg-info fastloss/*.so fastloss/_build_info.json
	rm -rf fastloss/_triton .pytest_cache .ruff_cache .hypothesis

gpu-check:  ## on a CUDA machine, offline: all gpu- steps; logs in build/gpu-check
	$(GPU_PYTHON) tests/gpu_check.py $(GPU_STEPS)

$(GPU_STEPS:%=gpu-%): gpu-%:
	$(GPU_PYTHON) tests/gpu_check.py $*

# A settings file changes only when its variables do, and then what depends on it is made again.
$(VENV)/settings: SETTINGS = $(TORCH) $(TRITON)
$(VENV2)/settings: SETTINGS = $(TORCH2)
$(VENV)/settings2: SETTINGS = $(TRITON2)
$(VENV)/switches: SETTINGS = $(FASTLOSS_CPP) $(FASTLOSS_CUDA) $(CXX)
$(VENV)/settings $(VENV)/settings2 $(VENV)/switches $(VENV2)/settings: FORCE
	@mkdir -p $(@D)
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' > $@

$(VENV)/installed: $(VENV)/settings
	@$(call make_venv,$(VENV))
	$(PY) -m pip install $(TORCH) $(TRITON) ninja 'setuptools>=70.1'
	@touch $@

$(VENV)/built: $(VENV)/installed $(VENV)/switches $(SOURCES)
	$(PY) -m pip install --quiet --no-build-isolation -e '.[bench,examples,dev]'
	@$(PY) -c "import json; made = json.load(open('fastloss/_build_info.json')); \
	  print('C++ kernels:', made['cpp']); print('CUDA kernels:', made['cuda'])"
	@touch $@

$(VENV)/references.done: tests/compat/requirements.txt $(VENV)/installed
	@rm -rf $(FASTLOSS_REFERENCES)
	@$(PY) -m pip install --quiet --no-deps --target $(FASTLOSS_REFERENCES) -r $< && touch $@ \
	  || echo "The reference libraries did not install: tests that compare with them are skipped."

$(VENV)/triton2.done: $(VENV)/settings2 $(VENV)/installed
	@rm -rf $(FASTLOSS_TRITON2)
	@$(PY) -m pip install --quiet --no-deps --target $(FASTLOSS_TRITON2) $(TRITON2) && touch $@ \
	  || echo "The second Triton did not install: its tests are skipped."

$(VENV2)/installed: $(VENV2)/settings
	@$(call make_venv,$(VENV2))
	$(VENV2)/bin/python -m pip install $(TORCH2) numpy
	@touch $@

define make_venv
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "fastloss needs Python 3.10 or later: make $(MAKECMDGOALS) PYTHON=python3.x"; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv"; \
	       exit 1; }; \
	$(PYTHON) -m venv $(1)
endef
