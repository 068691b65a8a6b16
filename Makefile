# make demo      install into .venv and run the main job (about 10 minutes on two cores)
# make test      install into .venv and run the tests (about 5 minutes on two cores)
# make test-all  run these and the tests marked "thorough", such as kills of every method (about 15 minutes)
# make slow      run the tests marked "slow", of minutes each
# make docs      build the pages and the reference of all modules into site/
# make bench     install into .venv, with learn2learn, and run the benchmarks (under 40 minutes on two cores)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all slow bench docs lint format clean

.venv/run.stamp: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed (this is %d.%d): make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt requirements-sweeps.txt requirements-pretrained.txt requirements-transformers.txt requirements-learn2learn.txt
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	$(BIN)/python -m pip install -q --no-deps --upgrade --target .venv/apart -r requirements-transformers.txt
	$(BIN)/python -m pip install -q --no-deps -r requirements-learn2learn.txt
	touch $@

# The site needs no torch: docstrings are read, not imported.
.venv/docs.stamp: requirements-docs.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements-docs.txt
	touch $@

demo: .venv/run.stamp
	$(BIN)/python run.py -m method=protonet,maml,metagan,nearest

test: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: .venv/dev.stamp
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

slow: .venv/dev.stamp
	$(BIN)/python -m pytest -m slow

docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html is ready; to search in it: $(BIN)/python -m http.server -d site"

bench: .venv/dev.stamp
	$(BIN)/python -m benchmarks

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache site
