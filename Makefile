# holdd: every command of the checkout. `make demo` and `make test` set up a bare Debian 12 by themselves (as root).
# `make test-vm` is the part of the tests that boots a virtual machine, `make test-frozen` tests the frozen binaries.
.PHONY: demo build freeze test test-frozen test-vm bench lint protocol clean system install uninstall dist

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
SYSTEM := gcc libc6-dev python3 python3-dev python3-venv runc docker-registry skopeo umoci busybox-static \
  ca-certificates openssl btrfs-progs crun criu e2fsprogs qemu-system-x86 xfsprogs apparmor \
  systemd mandoc groff-base zsh fish debootstrap containerd strace
OBJECTS := build/frozen/made
FREEZING := binutils dpkg-dev libbluetooth-dev libssl-dev make nasm xz-utils zlib1g-dev
SOURCES := $(wildcard pyx/*.pyx pyx/*.pxd) setup.py

demo: build
	$(BIN)/python packaging/demo.py

test: build lint freeze
	@base=$$(mktemp -d /tmp/holdd-test-XXXXXX) && trap "rm -rf $$base" EXIT && \
	  $(BIN)/python -m pytest --basetemp=$$base/t && \
	  HOLDD_TEST_BIN=dist $(BIN)/python -m pytest --basetemp=$$base/t tests/e2e

# What starts daemons, on the frozen binaries alone.
test-frozen: freeze
	@base=$$(mktemp -d /tmp/holdd-test-XXXXXX) && trap "rm -rf $$base" EXIT && \
	  HOLDD_TEST_BIN=dist $(BIN)/python -m pytest --basetemp=$$base/t tests/e2e tests/frozen

test-vm: build
	@base=$$(mktemp -d /tmp/holdd-test-XXXXXX) && trap "rm -rf $$base" EXIT && \
	  $(BIN)/python -m pytest --basetemp=$$base/t tests/vm

build: $(VENV)/built $(VENV)/compiled

# dist/holdd and dist/ctr: static, of one file each.
freeze: $(VENV)/built $(OBJECTS)
	$(BIN)/python packaging/freeze/build.py

# What the binaries are linked from. Ours is compiled again with each freeze.
$(OBJECTS): packaging/freeze/objects.py packaging/freeze/keep.py requirements.txt $(VENV)/ready
	@dpkg -s $(FREEZING) >/dev/null 2>&1 || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(FREEZING); }
	$(BIN)/python packaging/freeze/objects.py
	touch $@

bench: build freeze
	$(BIN)/python -m tests.bench

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint pyx

# The two programs, their units, manual pages and completions below $(DESTDIR)$(PREFIX), and away again.
PREFIX ?= /usr/local

install: freeze
	$(BIN)/python packaging/dist.py install "$(DESTDIR)" "$(PREFIX)"

uninstall:
	sh "$(DESTDIR)$(PREFIX)/lib/holdd/uninstall"

# The same as an archive and as a Debian package, in dist/.
dist: freeze
	$(BIN)/python packaging/dist.py archive dist
	$(BIN)/python packaging/dist.py deb dist

# Renders spec/PROTOCOL.md and the JSON Schema from the method tables.
protocol: $(VENV)/ready
	$(BIN)/python -m tests.arch.test_protocol

system:
	@dpkg -s $(SYSTEM) >/dev/null 2>&1 || { apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(SYSTEM); }

$(VENV)/ready: requirements.txt requirements-dev.txt | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(VENV)/built: $(SOURCES) pyproject.toml $(VENV)/ready
	$(BIN)/python setup.py -q build_ext --inplace
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Python's byte code, so that no start compiles, wherever and by whomever it is run.
$(VENV)/compiled: $(VENV)/built $(shell find ctr daemon spec -name '*.py')
	$(BIN)/python -m compileall -q ctr daemon spec
	touch $@

clean:
	rm -rf $(VENV) .vm build dist *.egg-info pyx/*.c pyx/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
