# demo    the whole road in half a minute: sensors, broker, collector (killed halfway), aggregator, and a count; PEERS=1: with a real HDFS, HBase and Kafka
# test    every test: installs what it needs, names what it could not have
# check   lint, types, layers and the fast tests, in a minute
# bench   measures against a real Flume and writes docs/performance.md
# soak    the random kills, 500 a leg; 50 under transactions; the fan-out with 200,000 readings; the import of 1,000,000 rows
# docs    regenerates the tables in docs/
PYTHON ?= python3
WORKERS ?= 2
TESTS ?= tests
KILLS ?= 500

BIN := .venv/bin
STAMPS := .venv/stamps
PROGRAMS := mosquitto mosquitto_pub nc kcat strace unshare openssl java javac mvn mariadbd postgresql

.DEFAULT_GOAL := help
.PHONY: help demo test check bench soak docs peers clean

help:
	@sed -n 's/^# \([a-z]\{4,5\}  \)/make \1/p' Makefile

demo: $(STAMPS)/python
	@tests/peers/install mosquitto $(if $(PEERS),java mvn)
	@$(BIN)/python -m deploy.demo

test: $(STAMPS)/python peers
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile $(TESTS)

check: $(STAMPS)/python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m "not peer and not fault" tests

bench: $(STAMPS)/python peers
	$(BIN)/python -m tests.bench

soak: $(STAMPS)/python peers
	HEADRACE_KILLS=$(KILLS) $(BIN)/pytest -v -s tests/faults/test_random_kills.py tests/faults/test_topics_road.py
	HEADRACE_KILLS=50 $(BIN)/pytest -v -s tests/peers/test_topics_transactions.py -k sigkill
	HEADRACE_READINGS=200000 HEADRACE_KILLS=10 $(BIN)/pytest -v -s tests/faults/test_fan_out.py
	HEADRACE_ROWS=1000000 $(BIN)/pytest -v -s tests/peers/test_sql.py

docs: $(STAMPS)/python
	$(BIN)/python -m agent.config.tables > docs/components.md

# What the real peers need: programs, and jars by way of the user's Maven repository.
peers: $(STAMPS)/python
	@tests/peers/install $(PROGRAMS)
	@command -v mvn > /dev/null && $(BIN)/python -m tests.peers.jars && $(BIN)/python -m tests.peers.spark \
	    || echo "-- jars are missing: the tests that need them are skipped, by name"

clean:
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

# Made again when pyproject.toml is newer; what is there already is left alone.

$(STAMPS)/python: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
	    f"Headrace needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Try: make PYTHON=python3.13")'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || tests/peers/install $$($(PYTHON) -c \
	    'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
	@test -x $(BIN)/python || { echo "-- making .venv"; $(PYTHON) -m venv .venv; }
	@echo "-- installing Python packages into .venv"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@mkdir -p $(STAMPS) && touch $@
