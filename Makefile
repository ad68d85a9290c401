# make help lists the targets. Python 3.11 to 3.14 will do: make setup PY=python3.12

PY ?= python3
BIN := .venv/bin
# The same as in vplib/environment.py (a test compares). Two threads, everywhere, unless you say otherwise (make reproduce NPROC=8).
export NPROC ?= 2
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/vplib/compiled
export JAX_COMPILATION_CACHE_MAX_SIZE ?= 2000000000
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.1
ifeq ($(shell uname -m),x86_64)
export XLA_FLAGS ?= --xla_cpu_max_isa=AVX2 --xla_cpu_enable_platform_dependent_math=false
export ONEDNN_MAX_CPU_ISA ?= AVX2
endif

.DEFAULT_GOAL := help
.PHONY: help setup reproduce study seeds verify test test-extras lint lab figures slides site class class-check clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ok ## make .venv with the locked packages (once; minutes)

.venv/.ok: requirements.lock pyproject.toml
	@command -v $(PY) >/dev/null || { echo "error: no program '$(PY)': make setup PY=/path/to/python (3.11 to 3.14)"; exit 1; }
	@$(PY) -c 'import sys; v = sys.version.split()[0]; sys.exit(f"error: $(PY) is Python {v}, needed is 3.11 to 3.14: make setup PY=python3.12" if not (3, 11) <= sys.version_info < (3, 15) else 0)'
	$(PY) -m venv --clear .venv
	$(BIN)/python -m pip install -q --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

reproduce: setup ## the main job from nothing, seed 0: corpus, both stages, evaluation, figures (under 30 minutes, 2 CPU cores)
	@$(BIN)/python -m vplib.reproduce run lesson

study: setup ## the same at scale=study (three and a half hours on 2 CPU cores); a stopped run continues
	@$(BIN)/python -m vplib.reproduce run study

seeds: setup ## the other training seeds, after the two above: lesson 1 to 4, study 1 and 2 (hours); a stopped run continues
	@$(BIN)/python -m vplib.reproduce seeds lesson 5
	@$(BIN)/python -m vplib.reproduce seeds study 3

verify: setup ## rerun the main job (seed 0) and compare its results with the committed ones
	@$(BIN)/python -m vplib.reproduce verify lesson

test: setup ## all tests, every notebook included, in a fresh temporary folder
	@tmp=$$(mktemp -d) && TMPDIR="$$tmp" $(BIN)/python -m pytest -p no:cacheprovider -n 2 --dist loadfile --no-loadscope-reorder; status=$$?; rm -rf "$$tmp"; exit $$status

test-extras: .venv-extras/.ok .venv-beam/.ok ## tests that need PyTorch, OpenVINO, a compiler for TPUs and Apache Beam (installs gigabytes)
	JAX_PLATFORMS=cpu .venv-extras/bin/python -m pytest -p no:cacheprovider tests/test_extras.py tests/test_export.py tests/test_public_lm.py
	JAX_PLATFORMS=cpu .venv-beam/bin/python -m pytest -p no:cacheprovider tests/test_beam.py tests/test_croissant.py tests/test_webdataset.py

.venv-extras/.ok: requirements.lock pyproject.toml
	$(PY) -m venv --clear .venv-extras
	.venv-extras/bin/python -m pip install -q --no-deps -r requirements.lock
	.venv-extras/bin/python -m pip install -q --constraint requirements.lock --no-build-isolation -e '.[peers]'
	@touch $@

.venv-beam/.ok: requirements.lock pyproject.toml
	$(PY) -m venv --clear .venv-beam
	.venv-beam/bin/python -m pip install -q --no-deps -r requirements.lock
	.venv-beam/bin/python -m pip install -q -e '.[beam]' mlcroissant
	@touch $@

lint: setup ## style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_tour.ipynb

figures: setup ## redraw the comparison figures of paper and blog from the committed tables (seconds, no training)
	$(BIN)/python -m vplib.run 60_paper_figures --print

slides: setup .venv-site/.ok ## slides of the course as HTML and PDF, from course/slides/*.md
	@$(BIN)/python -m vplib.course.slides
	@for s in course/slides/*.html; do .venv-site/bin/weasyprint -q $$s $${s%.html}.pdf; done

site: .venv-site/.ok ## README, lessons, prints, results and API as one web site in dist/site that needs no network (minutes)
	@.venv-site/bin/python pages/build.py

.venv-site/.ok: pages/requirements.txt
	$(PY) -m venv --clear .venv-site
	.venv-site/bin/python -m pip install -q -r pages/requirements.txt
	@touch $@

class: setup site ## dist/videoprism-class-<system>.tar: the course, which installs without a network (SYSTEM=windows PYTHON=3.12)
	@$(BIN)/python -m vplib.course.bundle $(SYSTEM) $(PYTHON)

class-check: setup ## is this laptop ready for the class? green, or red with what to do (20 seconds)
	@$(BIN)/python -m vplib.course.ready

clean: ## remove scratch runs and caches; results and .venv stay
	rm -rf runs/.scratch .pytest_cache .ruff_cache
	find vplib tests -name __pycache__ -prune -exec rm -rf {} +
