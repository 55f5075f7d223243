# The same verbs by hand and in CI. Each verb does its own set-up: the virtual environment .venv, and system packages
# where it runs as root (otherwise it names them and stops).
#
#   JOBS=2        compiler processes at a time
#   PYTHON=...    interpreter that .venv is made with (default: python3, or the first of python3.11 to 3.14 that fits)
#   PYTEST_ARGS=  more arguments for pytest, for example PYTEST_ARGS='-m slow'
#   DEMO_ARGS=    more arguments for the demo, for example DEMO_ARGS=--quick
#   FUZZ_RUNS=    executions of each fuzz target, instead of FUZZ_SECONDS=60
#   BENCH_ARGS=   more arguments for the benchmark
#   ROBUSTNESS_ARGS=--check  compare with docs/robustness.md instead of writing it
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# Two goals at once would configure the same build directory twice.
.NOTPARALLEL:

JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
CMAKE := $(VENV)/bin/cmake
CCACHE := $(shell command -v ccache)

# A person's settings for other programs must not change what is built or tested here.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONOPTIMIZE PYTHONWARNINGS PYTHONSAFEPATH PYTHONUSERBASE PYTHONPLATLIBDIR
unexport VIRTUAL_ENV CONDA_PREFIX PYTEST_ADDOPTS PYTEST_PLUGINS MYPYPATH RUFF_CONFIG DESTDIR CDPATH
unexport PIP_USER PIP_TARGET PIP_PREFIX PIP_ROOT PIP_REQUIREMENT PIP_NO_DEPS PIP_EDITABLE PIP_PYTHON PIP_DRY_RUN
unexport CMAKE_GENERATOR CMAKE_BUILD_TYPE CMAKE_INSTALL_MODE CMAKE_ARGS SKBUILD_CMAKE_ARGS
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
ifneq ($(CCACHE),)
export CMAKE_CXX_COMPILER_LAUNCHER := $(CCACHE)
export CCACHE_BASEDIR := $(CURDIR)
endif

# What the installed package is made from.
SOURCES := CMakeLists.txt pyproject.toml VERSION $(shell find cpp bindings cmake python -type f \
             \( -name '*.cc' -o -name '*.h' -o -name '*.py' -o -path '*/report/template/*' -o -name '*.cmake' -o -name '*.in' -o -name 'CMakeLists.txt' \) \
             2>/dev/null)
PIP_BUILD := CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(PY) -I -m pip --disable-pip-version-check

.PHONY: help
help: ## this list
	@echo "make VERB [JOBS=2] [PYTHON=python3.12] ..."
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

# ---- set-up

$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt requirements/constraints.txt
	@tools/setup_venv.sh $(VENV) requirements/build.txt
	@tools/setup_venv.sh $(VENV) requirements/runtime.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@tools/setup_venv.sh $(VENV) requirements/dev.txt
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev ## make .venv with everything that development and tests need

# ---- build

# Configure a preset; GoogleTest is optional in the dev preset, so that the Python tests run without it.
CONFIGURE := $(CMAKE) -DPython_EXECUTABLE=$(CURDIR)/$(PY) -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(VENV)/bin/ninja \
             --log-level=WARNING

.PHONY: configure
configure: $(VENV)/.dev
	@tests=ON; tools/system_packages.sh gtest || tests=OFF; \
	$(CONFIGURE) --preset dev -DARROW_QUANT_TESTS=$$tests

.PHONY: build
build: configure ## build the dev preset: unit tests, and the Python module in python/
	@echo "==> building the dev preset in build/dev ($(JOBS) jobs)"
	@$(CMAKE) --build --preset dev -j $(JOBS)
	@cp -u build/dev/bindings/_core.pyi python/arrow_quant_v2/_core.pyi

# The package as a person installs it, a release build, in .venv.
$(VENV)/.package: $(SOURCES) $(VENV)/.runtime
	@echo "==> building the package and installing it into $(VENV)"
	@$(PIP_BUILD) install --quiet --no-build-isolation --no-deps .
	@touch $@

.PHONY: wheel
wheel: $(VENV)/.runtime ## build the wheel into dist/, in an isolated environment
	@echo "==> building the wheel into dist/"
	@$(PIP_BUILD) wheel --no-deps --wheel-dir dist .

# ---- use

.PHONY: demo
demo: $(VENV)/.package ## quantize and sample the demo model into demo/ (DEMO_ARGS=--quick for a short run)
	@echo "==> running the demo: quantized models, pictures and a table go to demo/"
	@$(VENV)/bin/arrow-quant demo --out demo $(DEMO_ARGS)

# ---- check

.PHONY: test
test: build ## C++ unit tests and all Python tests
	@if [ -x build/dev/arrow_quant_tests ] && grep -q '^ARROW_QUANT_TESTS:.*=ON' build/dev/CMakeCache.txt; then \
	  echo "==> C++ unit tests"; build/dev/arrow_quant_tests --gtest_brief=1; \
	else echo "==> the C++ unit tests were left out: GoogleTest is missing"; fi
	@echo "==> Python tests"
	@PYTHONPATH=python $(PY) -m pytest $(PYTEST_ARGS)

# Undefined behaviour must fail the run, not only print.
.PHONY: asan
asan: $(VENV)/.dev ## C++ unit tests under the address and undefined-behaviour sanitizers
	@echo "==> C++ unit tests with sanitizers"
	@tools/system_packages.sh gtest
	@$(CONFIGURE) --preset asan
	@$(CMAKE) --build --preset asan -j $(JOBS)
	@UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 build/asan/arrow_quant_tests --gtest_brief=1

# The library as a program uses it: installed, found as the package ArrowQuant, linked into examples/cpp.
.PHONY: cpp-example
cpp-example: build ## install the C++ library into build/cpp and run examples/cpp against it
	@echo "==> installing the C++ library into build/cpp and building examples/cpp against it"
	@CMAKE=$(CMAKE) PYTHON=$(PY) tools/run_cpp_example.sh build/dev build/cpp

# Targets run one after the other: FUZZ_SECONDS each, or FUZZ_RUNS executions each.
$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.dev
	@tools/setup_venv.sh $(VENV) requirements/fuzz.txt
	@touch $@

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: build $(VENV)/.fuzz ## fuzz what reads files, with sanitizers (FUZZ_SECONDS=60 or FUZZ_RUNS=1000000 per target)
	@echo "==> building the fuzz targets in build/fuzz ($(JOBS) jobs)"
	@tools/system_packages.sh fuzz
	@$(CONFIGURE) --preset fuzz
	@$(CMAKE) --build --preset fuzz -j $(JOBS)
	@echo "==> fuzzing"
	@PYTHON=$(PY) FUZZ_RUNS=$(FUZZ_RUNS) tools/run_fuzzers.sh $(FUZZ_SECONDS)

CXX_FILES = $(shell find cpp bindings examples -name '*.cc' -o -name '*.h')
PYTHON_DIRS := $(wildcard python tools tests bench examples)

.PHONY: lint
lint: build ## ruff, mypy, clang-format, module layers, links of documents
	@echo "==> ruff"
	@$(PY) -m ruff check $(PYTHON_DIRS)
	@$(PY) -m ruff format --check $(PYTHON_DIRS)
	@echo "==> mypy"
	@$(PY) -m mypy
	@echo "==> clang-format"
	@$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)
	@echo "==> module layers and document links"
	@$(PY) tools/check_layers.py
	@$(PY) tools/check_docs.py
	@PYTHONPATH=python $(PY) tools/generate_config_docs.py --check
	@PYTHONPATH=python $(PY) tools/make_troubleshooting.py --check
	@echo "==> clang-tidy (files without Arrow; make tidy does all)"
	@$(PY) tools/run_clang_tidy.py --jobs $(JOBS)

.PHONY: tidy
tidy: build ## clang-tidy on every file (slow: Arrow's headers)
	@echo "==> clang-tidy on every file"
	@$(PY) tools/run_clang_tidy.py --jobs $(JOBS) --all

.PHONY: format
format: $(VENV)/.dev ## rewrite C++ and Python files in the project's format
	@echo "==> formatting"
	@$(VENV)/bin/clang-format -i $(CXX_FILES)
	@$(PY) -m ruff format $(PYTHON_DIRS)

.PHONY: robustness
robustness: build ## rewrite docs/robustness.md from what the program does with every kind of input
	@echo "==> running every case of docs/robustness.md"
	@PYTHONPATH=python $(PY) tools/make_robustness.py $(ROBUSTNESS_ARGS)

.PHONY: docs
docs: $(VENV)/.runtime ## check the links of the Markdown documents
	@echo "==> checking the links of the documents"
	@$(PY) tools/check_docs.py

$(VENV)/.docs: requirements/docs.txt requirements/constraints.txt
	@tools/setup_venv.sh $(VENV) requirements/docs.txt
	@touch $@

# The variable silences an advertisement of another program.
.PHONY: site
site: $(VENV)/.docs ## build the documents as a site into build/site; warnings are errors
	@echo "==> building the site in build/site"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@$(PY) tools/check_site.py build/site

# A forced OpenBLAS core type would slow numpy and flatter us.
.PHONY: bench
bench: $(VENV)/.dev $(VENV)/.package ## benchmarks beside numpy, torch and the scalar twin (minutes)
	@echo "==> benchmarks of the installed release build"
	@env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(PY) bench/run.py $(BENCH_ARGS)

# In an environment of its own: the other quantizers pin other versions. PROBLEM makes the layers.
PEERS := .venv-peers
PROBLEM ?= ../shared/problems/problem.py
PEERS_ENV := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE PYTHONWARNINGS=ignore

$(PEERS)/.peers: requirements/peers.txt
	@tools/setup_venv.sh $(PEERS) requirements/peers.txt
	@touch $@

.PHONY: bench-peers
bench-peers: $(VENV)/.runtime $(PEERS)/.peers ## public quantizers on the same layers, and the second-moment update (an hour)
	@echo "==> building the package and installing it into $(PEERS)"
	@$(PIP_BUILD) wheel --quiet --no-build-isolation --no-deps --wheel-dir build/peers .
	@$(PEERS)/bin/python -I -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/peers/*.whl
	@echo "==> benchmarks: the machine should do nothing else"
	@$(PEERS_ENV) $(PEERS)/bin/python bench/second_moment.py --out bench/results/second_moment.md
	@$(PEERS_ENV) $(PEERS)/bin/python bench/peers.py --problem $(PROBLEM) --out bench/results/peers.md
	@$(PEERS_ENV) $(PEERS)/bin/python bench/peers.py --problem $(PROBLEM) --sizes 4096 --only none --out bench/results/peers_4096.md

.PHONY: clean
clean: ## remove what was built (build/, dist/, demo/, caches); .venv stays
	@echo "==> removing build products"
	@rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks $(VENV)/.package
	@rm -f python/arrow_quant_v2/_core*.so python/arrow_quant_v2/_core.pyi
	@find cpp bindings python tests tools bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: distclean
distclean: clean ## clean, and remove .venv and .venv-peers
	@rm -rf $(VENV) $(PEERS)
