# Each target sets up .venv by itself on a fresh clone; afterwards it only runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check

demo: .venv/.ready
	$(BIN)/studio demo

test: .venv/.ready
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Studio needs Python 3.11 or newer: give one with make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
