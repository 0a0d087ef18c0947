# Two commands matter: `make demo` and `make test`. Everything installs itself into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
DECLARED := pyproject.toml _version.py constraints.txt

.PHONY: demo test check soak format bench wheel clean

demo: .venv/.demo
	$(BIN)/python demo/demo.py $(if $(ACQ),--acq "$(ACQ)")

test: .venv/.develop
	$(BIN)/pytest -m "not slow"

soak: .venv/.develop
	$(BIN)/pytest -m slow

check: .venv/.develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: .venv/.develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.develop
	$(BIN)/python benchmarks/latency.py

wheel: .venv/.develop
	$(BIN)/python -m build --wheel

# The link lets editors and type checkers see this folder, whatever its name, as the package `defocus`.
.venv/src/defocus:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'defocus needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	mkdir -p .venv/src
	ln -sfn ../.. .venv/src/defocus

.venv/.demo: .venv/src/defocus $(DECLARED)
	$(PIP) install --constraint constraints.txt --editable ".[cpu,demo]"
	touch $@

.venv/.develop: .venv/src/defocus $(DECLARED)
	$(PIP) install --constraint constraints.txt --editable ".[cpu,train,demo,test,dev]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
