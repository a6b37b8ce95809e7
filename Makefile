# Needs Python 3.11 or newer and make. Everything else comes from the package registry, pinned by locks and
# checked by hash. `make run` starts the gate, `make test` runs its tests.

.DEFAULT_GOAL := run
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# A lock is the complete closure, so pip resolves nothing; `pip check` then confirms that the
# environment agrees with itself.
INSTALL := $(PIP) install --quiet --require-hashes --no-deps
EDITABLE := $(INSTALL) -r requirements-build.lock && \
    $(PIP) install --quiet --no-deps --no-build-isolation --no-index --editable .
CONSISTENT := $(PIP) check >/dev/null || { $(PIP) check; \
    echo "the environment does not agree with itself; \`make clean\` and repeat the command" >&2; exit 1; }
PEERS := tensorzero ferrogw hardcap litellm litellm-current
BENCH_PYTHON ?=
PORTKEY := loadtest/peers/portkey
CLIENTS := tests/clients
NPM_ARGS := --ignore-scripts --omit-lockfile-registry-resolved --no-audit --no-fund --loglevel error
LOCK := $(VENV)-lock/bin/uv pip compile --quiet --universal --generate-hashes \
    --no-emit-index-url --no-header --no-annotate --no-strip-extras --python-version 3.11
NGINX_LUA := /usr/lib/nginx/modules/ngx_http_lua_module.so
PYTEST_ARGS ?=
# Each process starts with one half, so files stay together; one that is done takes work from the other.
PARALLEL := -n 2 --dist worksteal
ARGS ?=

.PHONY: fuzz-admin run test demo day loadtest check lint format test-all lock docs bench gate-cost accuracy ledger-cost sinks growth scale soak skew hostile sentinel cluster kill-test overspend oracle meter-test mutants test-long clients image-steps lint-docker clean

run: $(STAMPS)/run ## start the gate with a simulated provider on this machine
	@exec $(BIN)/creditgate dev $(ARGS)

test: $(STAMPS)/dev ## run the tests; servers they need come from the registry too
	@$(BIN)/python -m pytest $(PARALLEL) -m "not debian and not long" $(PYTEST_ARGS)

test-long: $(STAMPS)/dev ## what `make test` leaves out: the wheel, the demo, storms of clients, mutants
	@$(BIN)/python -m pytest $(PARALLEL) -m "long and not debian" $(PYTEST_ARGS)

demo: $(STAMPS)/demo ## the complete story with a real model and the official SDKs
	@$(BIN)/creditgate demo $(ARGS)

day: $(STAMPS)/dev ## one business day on a real gate, each step checked to the unit (docs/tutorial/business-day.md)
	@$(BIN)/python -m loadtest.day $(ARGS)

loadtest: $(STAMPS)/loadtest ## put load on the gate that `make run` started (docs/how-to/loadtest.md)
	@$(BIN)/creditgate loadtest $(ARGS)

check: lint ## lint, then the fast tests
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not long and not model and not debian" $(PYTEST_ARGS)

lint: $(STAMPS)/dev ## format, lint, types, imports, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile

format: $(STAMPS)/dev ## format the code and apply the linter's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-all: $(STAMPS)/dev ## the tests that need Debian's packages, which root has installed first
	@missing=""; \
	for need in redis-server nginx chromium; do \
	    command -v $$need >/dev/null || [ -x /usr/sbin/$$need ] || missing="$$missing $$need"; \
	done; \
	[ -e $(NGINX_LUA) ] || missing="$$missing libnginx-mod-http-lua lua-cjson"; \
	command -v promtool >/dev/null || missing="$$missing prometheus"; \
	if [ -n "$$missing" ]; then \
	    [ "$$(id -u)" = 0 ] || { echo "install these as root first:$$missing" >&2; exit 1; }; \
	    apt-get update -qq; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	@$(BIN)/python -m pytest $(PARALLEL) -m "not long" $(PYTEST_ARGS)

# A peer that cannot be installed is left out, and the benchmark says so.
bench: $(VENV)-bench/stamp ## compare the gate with its peers in one run, against its targets (docs/explanation/benchmark.md)
	@if [ ! -e $(NGINX_LUA) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing nginx with its Lua module"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	        --no-install-recommends nginx libnginx-mod-http-lua lua-cjson >/dev/null; } || true; \
	fi
	@for peer in $(PEERS) portkey; do \
	    $(MAKE) --no-print-directory $(VENV)-$$peer/stamp || echo "could not install $$peer" >&2; \
	done
	@$(VENV)-bench/bin/python -m loadtest.bench --peers $(VENV) $(ARGS)

gate-cost: $(STAMPS)/dev ## what a request costs a worker: ARGS="--against CHECKOUT", "--bytecodes" (docs/explanation/performance.md)
	@$(BIN)/python -m loadtest.gate_cost $(ARGS)

accuracy: $(VENV)-bench/stamp ## how exactly budgets hold under many streams, with peers (docs/explanation/accuracy.md)
	@for peer in hardcap tensorzero; do \
	    $(MAKE) --no-print-directory $(VENV)-$$peer/stamp || echo "could not install $$peer" >&2; \
	done
	@$(VENV)-bench/bin/python -m loadtest.accuracy --peers $(VENV) $(ARGS)

ledger-cost: $(STAMPS)/dev ## CPU of the ledger's server for a reserve and a settle (docs/explanation/accuracy.md)
	@$(BIN)/python -m loadtest.ledger_cost $(ARGS)

SINK_KILLS ?= 100
sinks: $(STAMPS)/dev ## every sink on its real server: contract, 100 kills, then what it costs (docs/explanation/exporter.md)
	@CREDITGATE_EXPORTER_KILLS=$(SINK_KILLS) $(BIN)/python -m pytest -n 2 tests/unit/exporter/sinks \
	    tests/unit/exporter/test_kills.py -m "not debian" $(PYTEST_ARGS)
	@$(BIN)/python -m loadtest.sinks $(ARGS)

growth: $(STAMPS)/dev ## what a request costs as customers, holds, events and more grow (docs/explanation/growth.md)
	@$(BIN)/python -m loadtest.growth $(ARGS)

scale: $(STAMPS)/dev ## the ledger on one server and on clusters of 1, 2 and 3 primaries (docs/explanation/scale.md)
	@$(BIN)/python -m loadtest.scale $(ARGS)

MINUTES ?= 60
soak: $(STAMPS)/dev ## a mixed load for MINUTES: no drift, no growing memory
	@$(BIN)/python -m loadtest.growth.soak --minutes $(MINUTES) $(ARGS)

hostile: $(STAMPS)/dev ## attacks on a running gate, and what they cost everybody else: ARGS="--share 0.2"
	@$(BIN)/python -m loadtest.hostile $(ARGS)

cluster: $(STAMPS)/dev ## nodes of a ledger's cluster fail, move and are replaced under load (docs/how-to/cluster.md)
	@$(BIN)/python -m loadtest.failover.cluster $(ARGS)

sentinel: $(STAMPS)/dev ## Sentinels replace the primary of a ledger under load: killed, frozen, cut off (docs/how-to/sentinel.md)
	@$(BIN)/python -m loadtest.failover.sentinel $(ARGS)

skew: $(STAMPS)/dev ## hot wallets and the busiest of N servers, simulated (docs/explanation/scale.md)
	@$(BIN)/python -m loadtest.growth.skew $(ARGS)

kill-test: $(STAMPS)/dev ## kill workers and the exporter 100 times under load, then verify
	@export CREDITGATE_KILLS=$${CREDITGATE_KILLS:-100}; \
	    CREDITGATE_EXPORTER_KILLS=$${CREDITGATE_EXPORTER_KILLS:-$$CREDITGATE_KILLS} \
	    $(BIN)/python -m pytest -n 0 tests/e2e/test_kills.py tests/unit/exporter/test_kills.py $(PYTEST_ARGS)

overspend: $(STAMPS)/dev ## 500 requests at once on credit for 100, round after round, over 4 workers
	@CREDITGATE_OVERSPEND_ROUNDS=$${CREDITGATE_OVERSPEND_ROUNDS:-50} \
	    $(BIN)/python -m pytest -n 0 tests/e2e/test_no_overspend.py $(PYTEST_ARGS)

oracle: $(STAMPS)/dev ## 100,000 random operations on the scripts, compared with a model in exact integers
	@CREDITGATE_ORACLE_STEPS=$${CREDITGATE_ORACLE_STEPS:-100000} $(BIN)/python -m pytest -n 0 -s \
	    tests/ledger/test_oracle.py $(PYTEST_ARGS)

meter-test: $(STAMPS)/dev ## the meter against a model of provider responses, for MINUTES
	@CREDITGATE_METER_MINUTES=$(MINUTES) $(BIN)/python -m pytest $(PARALLEL) tests/unit/dialects/test_provider_model.py $(PYTEST_ARGS)

mutants: $(STAMPS)/dev ## judge the tests by scripts with one place changed (docs/explanation/mutants.md)
	@$(BIN)/python -m tests.mutants $(ARGS)

clients: $(STAMPS)/dev $(VENV)-clients/stamp ## coding agents and SDKs from npm, unmodified, call tools through the gate
	@CREDITGATE_CLIENTS=$(abspath $(VENV)-clients) $(BIN)/python -m pytest -n 0 \
	    tests/e2e/test_tool_calls.py $(CLIENTS)/through_the_gate.py $(PYTEST_ARGS)

fuzz-admin: $(STAMPS)/dev ## send the admin API many made-up requests and check every answer (EXAMPLES=200)
	@CREDITGATE_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(BIN)/python -m pytest -n 0 -q tests/admin/test_schema.py $(PYTEST_ARGS)

docs: $(STAMPS)/dev ## rewrite the generated pages: configuration and its schema, commands, metrics, log events
	$(BIN)/creditgate schema > config/schema.json
	$(BIN)/creditgate schema --reference > docs/reference/configuration.md
	$(BIN)/python -m gateway.cli.reference_pages docs/reference
	$(BIN)/python -m gateway.admin.reference_page docs/reference

lock: ## rewrite the locks from pyproject.toml
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip --disable-pip-version-check install --quiet "uv>=0.9"
	$(LOCK) --group dev --extra demo pyproject.toml -o requirements-dev.lock
	$(LOCK) -c requirements-dev.lock pyproject.toml -o requirements.lock
	$(LOCK) -c requirements-dev.lock --extra stores --extra otel pyproject.toml -o requirements-image.lock
	$(LOCK) -c requirements-dev.lock --extra demo pyproject.toml -o requirements-demo.lock
	$(LOCK) -c requirements-dev.lock --extra loadtest pyproject.toml -o requirements-loadtest.lock
	$(LOCK) -c requirements-dev.lock --group build -o requirements-build.lock
	echo "hardcap==0.1.0" | $(LOCK) - -o requirements-hardcap.lock
	echo "litellm[proxy]==1.106.2" | $(LOCK) - -o requirements-litellm.lock
	echo "litellm[proxy]>1.106.2,!=1.107.*" | $(LOCK) - -o requirements-litellm-current.lock
	echo "tensorzero==2026.6.0" | $(LOCK) - -o requirements-tensorzero.lock
	echo "ferrogw==1.5.10" | $(LOCK) - -o requirements-ferrogw.lock
	@if command -v npm >/dev/null; then \
	    for folder in $(PORTKEY) $(CLIENTS); do \
	        (cd $$folder && npm install --package-lock-only $(NPM_ARGS)); \
	    done; \
	else echo "without npm: the locks of Portkey and of the clients stay as they are"; fi
	rm -rf $(VENV)-lock
	@echo "the locks are rewritten; \`make check\` builds the environment from them"

# For a dedicated machine: an environment in PREFIX with the package installed, not editable.
# The Dockerfile and a test call this.
PREFIX ?= build/image
image-steps: ## install creditgate with the drivers of all sinks into PREFIX, as the container image has it
	$(PYTHON) -m venv $(PREFIX)-build
	$(PREFIX)-build/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
	    --no-deps -r requirements-build.lock
	$(PREFIX)-build/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps \
	    --no-build-isolation --wheel-dir $(PREFIX)-wheel .
	$(PYTHON) -m venv $(PREFIX)
	$(PREFIX)/bin/python -m pip --disable-pip-version-check install --quiet --no-cache-dir \
	    --require-hashes --no-deps -r requirements-image.lock
	$(PREFIX)/bin/python -m pip --disable-pip-version-check install --quiet --no-cache-dir \
	    --no-deps --no-index $(PREFIX)-wheel/creditgate-*.whl
	$(PREFIX)/bin/python -m pip --disable-pip-version-check check
	rm -rf $(PREFIX)-build $(PREFIX)-wheel
	$(PREFIX)/bin/creditgate --help >/dev/null

lint-docker: $(STAMPS)/dev ## lint the Dockerfile
	$(BIN)/hadolint Dockerfile

clean: ## remove what the targets above made, except the data folder
	rm -rf $(VENV) $(VENV)-lock $(VENV)-bench $(VENV)-interpreter $(addprefix $(VENV)-,$(PEERS) portkey clients) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# -- the environment: one folder, one stamp for each lock that it holds ---------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "creditgate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)

$(STAMPS)/run: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "installing what the gate needs"
	@$(INSTALL) -r requirements.lock
	@$(EDITABLE)
	@$(CONSISTENT)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/demo: requirements-demo.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "installing what the demo needs, the model too (about 250 MB)"
	@$(INSTALL) -r requirements-demo.lock
	@$(EDITABLE)
	@$(CONSISTENT)
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/run

# The gate may be running from this environment: what it uses itself is the same in both locks.
$(STAMPS)/loadtest: requirements-loadtest.lock $(STAMPS)/run
	@echo "installing what the load tester needs"
	@$(INSTALL) -r requirements-loadtest.lock
	@$(CONSISTENT)
	@touch $@

$(STAMPS)/dev: requirements-dev.lock requirements-build.lock pyproject.toml | $(BIN)/python
	@echo "installing what the tests need, a model too (about 250 MB)"
	@$(INSTALL) -r requirements-dev.lock
	@$(EDITABLE)
	@$(CONSISTENT)
	@mkdir -p $(STAMPS) && touch $@ $(STAMPS)/run $(STAMPS)/demo && touch $(STAMPS)/loadtest

# Every Python contender of a benchmark, the gate too, runs on the same interpreter: the best one here,
# or BENCH_PYTHON. The file changes only when the choice does, and then the environments are made again.
$(VENV)-interpreter: $(STAMPS)/dev FORCE
	@$(BIN)/python -m loadtest.interpreters $(if $(BENCH_PYTHON),--python $(BENCH_PYTHON)) --write $@

FORCE:

# Debian's Python may lack venv and pip: uv makes the environment, and this one's pip fills it.
define ISOLATED
	@$(BIN)/uv venv --quiet --clear --python "$$(cat $(VENV)-interpreter)" $(@D)
	@$(PIP) --python $(@D)/bin/python install --quiet --require-hashes --no-deps -r $<
	@$(PIP) --python $(@D)/bin/python check
	@touch $@
endef

$(VENV)-bench/stamp: requirements-loadtest.lock $(VENV)-interpreter
	@echo "installing what the gate and the benchmarks need"
	$(ISOLATED)

# Each peer has a separate environment: nothing of theirs is installed next to the gate.
$(PEERS:%=$(VENV)-%/stamp): $(VENV)-%/stamp: requirements-%.lock $(VENV)-interpreter
	@echo "installing $*, a peer to compare with"
	$(ISOLATED)

$(VENV)-portkey/stamp: $(PORTKEY)/package.json $(PORTKEY)/package-lock.json
	@command -v npm >/dev/null || { echo "Portkey needs npm (Debian: nodejs npm)" >&2; exit 1; }
	@echo "installing Portkey's gateway, to compare the gate with it"
	@mkdir -p $(@D) && cp $^ $(@D)/
	@cd $(@D) && npm ci --omit=dev $(NPM_ARGS)
	@touch $@

$(VENV)-clients/stamp: $(CLIENTS)/package.json $(CLIENTS)/package-lock.json
	@command -v npm >/dev/null || { echo "the clients need npm (Debian: nodejs npm)" >&2; exit 1; }
	@echo "installing clients from npm (about 900 MB)"
	@mkdir -p $(@D) && cp $^ $(@D)/
	@cd $(@D) && npm ci --omit=dev $(NPM_ARGS)
	@touch $@
