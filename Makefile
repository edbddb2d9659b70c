# make run    sets everything up and shows the main job: a signed source, a region, a rack, 64 machines
# make test   sets everything up and passes the tests
# make vm     sets everything up and boots real firmware in QEMU (root)      make vm-storm   sixteen machines at once
# make soak   ten minutes of readers, faults and kill -9 against a rack (SOAK_ARGS="--seed N" does one again), then a
#             million hostile datagrams and as many requests
# make check  lint, types, the tests of core and dataplane under the sanitizers, and a minute of fuzzing
# make fuzz   fuzzes the parsers and machines of core (FUZZ_ARGS="--seconds 600 --keep http_head")
# make bench  the figures, beside nginx, varnish, tftpd-hpa, dnsmasq, atftpd (root; BENCH_ARGS="--only tftp", --ci)
# The rest: build, lint, sanitize, sanitize-full (minutes), fuzz-smoke, bench-smoke, bench-herd (root), bench-api,
#           bench-restart, bench-sync, clean.

VENV   := .venv
PYTHON := $(VENV)/bin/python
RUN_ARGS ?=
SOAK_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?= --seconds 60 --seed 0

.DEFAULT_GOAL := help
.PHONY: help run test vm vm-storm soak build check lint sanitize sanitize-full bench bench-smoke bench-herd bench-api
.PHONY: bench-restart bench-sync fuzz fuzz-smoke clean

help:
	@sed -n 's/^# //p' Makefile

run:
	@.ci/setup run
	@$(PYTHON) -m bootplane demo $(RUN_ARGS)

test:
	@.ci/setup test
	@.ci/timed tests $(PYTHON) -m pytest -q -m "not vm and not soak and not sanitize" $(PYTEST_ARGS)

vm:
	@.ci/setup vm
	@.ci/timed "firmware boots" $(PYTHON) -m pytest -q -m "vm and not storm" tests/vm $(PYTEST_ARGS)

vm-storm:
	@.ci/setup vm
	@.ci/timed "sixteen machines at once" $(PYTHON) -m pytest -q -m storm tests/vm $(PYTEST_ARGS)

soak:
	@.ci/setup test
	@.ci/timed "soak" $(PYTHON) -m tests.soak $(SOAK_ARGS)
	@.ci/timed "a million hostile packets" $(PYTHON) -m pytest -q -rP -m soak tests/adversity/test_hostile.py

build:
	@.ci/setup run

check: lint sanitize fuzz-smoke

lint:
	@.ci/setup lint
	@.ci/timed "ruff check" $(PYTHON) -m ruff check .
	@.ci/timed "ruff format" $(PYTHON) -m ruff format --check .
	@.ci/timed "mypy strict" $(PYTHON) -m mypy
	@.ci/timed "cython-lint" $(VENV)/bin/cython-lint --no-pycodestyle --max-line-length 120 core

sanitize:
	@.ci/setup sanitize
	@.ci/timed "address sanitizer" $(PYTHON) -m tests.sanitizers.run address
	@.ci/timed "thread sanitizer" $(PYTHON) -m tests.sanitizers.run thread
	@.ci/timed "planted mistakes are reported" $(PYTHON) -m pytest -q -m sanitize tests/sanitizers

fuzz-smoke:
	@.ci/setup sanitize
	@.ci/timed "fuzzers, a fixed number of inputs" $(PYTHON) -m tests.fuzz.run
	@.ci/timed "fuzzers find planted mistakes" $(PYTHON) -m pytest -q -m sanitize tests/fuzz

fuzz:
	@.ci/setup sanitize
	@.ci/timed "fuzzers" $(PYTHON) -m tests.fuzz.run $(FUZZ_ARGS)

sanitize-full:
	@.ci/setup sanitize
	@.ci/timed "address sanitizer, all" $(PYTHON) -m tests.sanitizers.run address --full
	@.ci/timed "thread sanitizer, all" $(PYTHON) -m tests.sanitizers.run thread --full

bench:
	@.ci/setup bench
	@.ci/timed "bench" $(PYTHON) -m bench $(BENCH_ARGS)

bench-smoke:
	@.ci/setup bench
	@.ci/timed "bench, smoke" $(PYTHON) -m bench.smoke

bench-herd:
	@.ci/setup bench
	@.ci/timed "bench, cold herd" $(PYTHON) -m bench.herd $(BENCH_ARGS)

bench-api:
	@.ci/setup load
	@.ci/timed "bench, API" $(PYTHON) -m bench.api

bench-sync:
	@.ci/setup bench
	@.ci/timed "bench, sync" $(PYTHON) -m bench.sync

bench-restart:
	@.ci/setup bench
	@.ci/timed "bench, restart" $(PYTHON) -m bench.restart

clean:
	rm -rf build .make .mypy_cache .ruff_cache .pytest_cache bootplane.egg-info core/*.c core/*.so core/*.html
