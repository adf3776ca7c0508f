# Each command does all its set-up: Debian packages (where root and missing), a virtual environment
# in .venv, the build. The second run is quick.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := build/stamps

# Debian packages: the compiler, Python's headers and venv, and what tests of networks need.
DEBIAN_PACKAGES := gcc libc6-dev python3 python3-dev python3-venv pkg-config iproute2 git \
	libdpdk-dev ethtool tshark curl wrk

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

# What the installed package is made of; any of them newer than the last build is a reason to build.
SOURCES := pyproject.toml README.md LICENSE meson.build meson_options.txt \
	$(shell find $(wildcard transport codegen runtime proto) -type f \
		\( -name '*.[ch]' -o -name '*.py' -o -name '*.pyi' -o -name '*.proto' -o -name py.typed \
		-o -name meson.build \))
C_FILES := $(shell find $(wildcard transport runtime tests samples) -type f -name '*.[ch]')
PIP_INSTALL := pip install --quiet --no-build-isolation --no-deps --force-reinstall \
	-Cbuild-dir=build/py -Csetup-args=-Dwerror=true $(addprefix -Csetup-args=,$(MESON_ARGS))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-net test test-c test-c-plain test-c-asan test-py test-asan-python soak bench lint format install venv clean distclean

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile
	@echo "  PYTHON=...            the Python >= 3.11 to make .venv with (default: python3)"
	@echo "  MESON_ARGS=...        more options for the build of the package, as in MESON_ARGS=-Dfailpoints=true"
	@echo "  PYTEST_ARGS=...       more arguments for pytest, as in PYTEST_ARGS='-k stats -x'"

# --- set-up ---------------------------------------------------------------------------------------

$(STAMPS)/debian: Makefile
	@mkdir -p $(@D)
	@missing=; \
	if command -v dpkg-query >/dev/null; then for p in $(DEBIAN_PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}\n' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; fi; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then \
			echo "installing Debian packages:$$missing"; \
			apt-get update -qq </dev/null && DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends $$missing </dev/null; \
		else \
			echo "missing Debian packages (install them as root if the build fails):$$missing" >&2; \
		fi; \
	fi
	@touch $@

$(VENV)/pyvenv.cfg: | $(STAMPS)/debian
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "zerohop needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@pip install --quiet 'pip>=23.1' # Debian 12's does not know -C

# What pyproject.toml asks for to build and to develop; pip runs only where that list has changed.
$(VENV)/requirements.txt: pyproject.toml $(VENV)/pyvenv.cfg
	@python .ci/requirements.py > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else \
		echo "pip install: build and development requirements"; \
		pip install --quiet -r $@.new && mv $@.new $@; fi
	@touch $@

venv: $(VENV)/requirements.txt ## The virtual environment with all requirements, without zerohop

$(STAMPS)/install: $(VENV)/requirements.txt $(SOURCES)
	@mkdir -p $(@D)
	$(PIP_INSTALL) .
	@touch $@

install: $(STAMPS)/install ## zerohop, built (incrementally, in build/py) and installed into .venv

# --- what users run -------------------------------------------------------------------------------

demo: install ## The demo: a chain of four services over grpcio and over shared memory, side by side
	@if [ -f samples/vision/demo.py ]; then $(BIN)/python samples/vision/demo.py; \
	else $(BIN)/python -m zerohop --version; fi

demo-net: install ## The TCP/IP stack over a veth pair: files by curl, figures beside the kernel's (root)
	@$(BIN)/python samples/net/demo.py

bench: install ## zerohop bench (BENCH_ARGS=...)
	$(BIN)/zerohop bench $(BENCH_ARGS)

# --- tests ----------------------------------------------------------------------------------------

# The C tests run twice: plain, and under the address and undefined-behaviour sanitizers.
C_TEST_OPTIONS := -Dpython_ext=false -Dtests=true -Dfailpoints=true -Dwerror=true

build/plain/build.ninja: | $(VENV)/requirements.txt
	@rm -rf build/plain
	@meson setup build/plain $(C_TEST_OPTIONS) >/dev/null

build/asan/build.ninja: | $(VENV)/requirements.txt
	@rm -rf build/asan
	@meson setup build/asan $(C_TEST_OPTIONS) --buildtype debugoptimized -Db_sanitize=address,undefined >/dev/null

test-c-plain: build/plain/build.ninja ## The C tests alone, plain
	meson test -C build/plain --print-errorlogs

test-c-asan: build/asan/build.ninja ## The C tests alone, under ASan and UBSan
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 meson test -C build/asan --print-errorlogs

test-c: test-c-plain test-c-asan

test-py: install ## The Python tests alone
	$(BIN)/python -m pytest tests -q $(PYTEST_ARGS)

# The extension and libzerohop under the sanitizers, in a Python that knows nothing of them.
ASAN_PYTHON := build/asan-python

test-asan-python: install ## Hostile peers and changed messages in Python, the C code under ASan and UBSan
	pip install --quiet --no-build-isolation --no-deps --upgrade --target $(ASAN_PYTHON) \
		-Cbuild-dir=build/py-asan -Csetup-args=-Dbuildtype=debugoptimized \
		-Csetup-args=-Db_sanitize=address,undefined -Csetup-args=-Db_lundef=false .
	PYTHONPATH=$(CURDIR)/$(ASAN_PYTHON) PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(BIN)/python -m pytest tests/runtime/test_image_hostile.py tests/runtime/test_image_changes.py \
		-q $(PYTEST_ARGS)

soak: install ## A soak of ZEROHOP_SOAK_SECONDS (60): random calls, kills and reconnects
	ZEROHOP_SOAK_SECONDS=$${ZEROHOP_SOAK_SECONDS:-60} $(BIN)/python -m pytest tests/runtime/test_soak.py -q $(PYTEST_ARGS)

test: test-c ## All tests: C (plain, then sanitizers), then Python
	@$(MAKE) --no-print-directory test-py

# --- lint -----------------------------------------------------------------------------------------

# mypy reads the installed package, as a user's mypy would, from a folder without the sources.
# The compiler's part (-Wall -Wextra -Werror) is the build itself.
lint: install ## ruff, mypy --strict on the installed package, clang-format, warnings as errors
	ruff check .
	ruff format --check .
	@rm -rf build/mypy && mkdir -p build/mypy
	cd build/mypy && mypy --config-file ../../pyproject.toml --cache-dir cache --strict \
		--python-executable ../../$(BIN)/python -p zerohop
	clang-format --dry-run -Werror $(C_FILES)

format: $(VENV)/requirements.txt ## Rewrite sources in the project's style
	ruff check --fix-only --quiet .
	ruff format --quiet .
	clang-format -i $(C_FILES)

clean: ## Remove what was built; .venv stays
	rm -rf build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(wildcard transport codegen runtime tests samples) .ci -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	rm -rf $(VENV)
