# make demo   one slice of the sample, asked of a local model in a real Dagster run
# make test   all tests, types, style and the import contract; the explorer's need a Chromium (make browser)
# make soak   launches killed and connections cut hundreds of times, on both databases, and a month backfilled (an hour)
# make ui     Dagster's web pages with the sample, on http://127.0.0.1:3000, and the explorer on http://127.0.0.1:3001
# Needs Python >= 3.11 and make; everything else goes into .venv and .cache.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
CACHE := .cache/models

.PHONY: demo test browser redis soak ui bench lock clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	@$(BIN)/python -m elspeth_dagster.demo --cache $(CACHE)

ui: $(VENV)/.installed $(DAGSTER_HOME)/dagster.yaml
	@$(BIN)/python -m elspeth_dagster.ui --cache $(CACHE)

test: $(VENV)/.installed browser
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --config setup.cfg
	@$(BIN)/python -m pytest -n 2 --dist worksteal

# The explorer is tested in a real Chromium: CHROMIUM, or one on the PATH, or Debian's. Several hosts need a redis-server.
browser: redis
	@for name in $$CHROMIUM chromium google-chrome chromium-browser; do command -v "$$name" >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing Chromium, for the tests of the explorer …"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium >/dev/null; \
	else \
		echo "The explorer's tests need Chromium: install it (Debian: apt-get install chromium), or set CHROMIUM to its path."; \
		exit 1; \
	fi

redis:
	@command -v redis-server >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing redis-server, for the tests of several hosts …"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y redis-server >/dev/null; \
	else \
		echo "The tests of several hosts need redis-server (Debian: apt-get install redis-server), and root: skipped."; \
	fi

SOAK = PYTHONPATH=. $(BIN)/python -m elspeth_dagster_tests.soak --kills 200 --worker-kills 24 --seed $(SEED)
SEED ?= 1

soak: $(VENV)/.installed
	@$(SOAK) --database sqlite
	@$(SOAK) --database postgresql --postmaster-kills 24
	@ELSPETH_SOAK=1 $(BIN)/python -m pytest elspeth_dagster_tests/landscape/test_cut_commits.py
	@ELSPETH_SOAK=1 PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest elspeth_dagster_tests/walk/test_in_dagster.py -k month
	@PYTHONPATH=$(CURDIR) $(BIN)/python -m elspeth_dagster_tests.hosts --requests-per-minute 6000 --trouble restart kill cut

bench: $(VENV)/.installed
	@PYTHONPATH=. $(BIN)/python benchmarks/compare.py --calls 5000 --concurrency 300
	@PYTHONPATH=. $(BIN)/python benchmarks/compare.py --latencies
	@PYTHONPATH=. $(BIN)/python benchmarks/imports.py
	@PYTHONPATH=. $(BIN)/python benchmarks/landscape_size.py --calls 10000 --calls 100000

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "elspeth_dagster needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute, the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: examples/one_machine/dagster.yaml
	@mkdir -p $(DAGSTER_HOME)
	@cp $< $@

lock:
	uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --no-strip-extras --output-file requirements.lock
	uv pip compile pyproject.toml examples/kubernetes/requirements.in --extra k8s --extra postgres --extra s3 --extra azure \
		--constraints requirements.lock --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-header --no-strip-extras \
		--output-file examples/kubernetes/requirements.lock

clean:
	rm -rf $(VENV) .cache .dagster_home
