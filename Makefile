# Two commands matter: `make demo` and `make test`. Everything installs itself into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
DECLARED := pyproject.toml engine/_version.py constraints.txt
PACKAGE = $(filter-out %/__pycache__,$(wildcard src/defocus/*)) engine watcher training export
# One thread each, or else each worker would let PyTorch take both cores. What is compiled is kept, also where Python is
# told not to: rewriting the assertions takes seconds. So do the plugins that napari and others bring along.
QUIETLY = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
# A file of tests goes to one worker, which keeps what they share; the longest files go first (tests/conftest.py).
WHOLE = -p xdist -p pytest-qt -p napari -m "not slow" -n 4 --dist loadfile --no-loadscope-reorder
LINK = find .venv/package/defocus -type l -delete && ln -sfn $(addprefix ../../../,$(PACKAGE)) .venv/package/defocus

.PHONY: model demo test test-quick coverage test-wheel check docs package commands soak soak-30min format bench results compare clean

demo: .venv/.demo
	$(BIN)/python demo/demo.py $(if $(ACQ),--acq "$(ACQ)")

# Four at once on two cores, since most tests wait for processes.
test: .venv/.develop
	$(QUIETLY) $(BIN)/python -m pytest $(WHOLE)

# Between two edits: no process is started, nothing sleeps, PyTorch is not loaded (tests/conftest.py sees to that).
test-quick: .venv/.develop
	$(QUIETLY) $(BIN)/python -m pytest -p xdist -m quick -n 2

# Fails below 90 % of the branches of engine/ and watcher/; the processes that tests start are followed.
coverage: .venv/.develop
	$(BIN)/coverage erase
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not slow" $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet -o .venv/coverage.json
	$(BIN)/coverage report --skip-covered
	$(BIN)/python -m tests.helpers.branches .venv/coverage.json 90

# What make test runs, against the wheel, in an environment that takes all but defocus from .venv.
test-wheel: .venv/.develop
	rm -rf .venv/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w .venv/wheel/dist .
	$(BIN)/python -m venv --without-pip .venv/wheel/env
	$(BIN)/python -c "import sys; print(*(path for path in sys.path if path.endswith('site-packages')), sep='\n')" \
	    > $$(.venv/wheel/env/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/others.pth
	$(BIN)/python -m pip --python .venv/wheel/env/bin/python install --quiet --no-deps .venv/wheel/dist/*.whl
	$(QUIETLY) .venv/wheel/env/bin/python -m pytest $(WHOLE) $(TESTS)

soak: .venv/.develop
	$(BIN)/pytest -m slow --durations=0

# The real daemon under a stated load, with kills and faults, and the proof that nothing is lost: docs/results/soak.md.
# The network is a tiny one: what is tried is the daemon, and any machine keeps up.
soak-30min: .venv/.develop
	mkdir -p runs
	$(BIN)/python -m benchmarks.speed.tiny runs/tiny.onnx
	$(BIN)/python -m benchmarks.soak.soak --minutes 30 --rate 3 --model runs/tiny.onnx -o docs/results/soak.md

check: .venv/.develop
	@$(LINK)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	PYTHONPATH=.venv/package $(BIN)/lint-imports --no-cache --no-logo

# The documentation as a site, in build/site: every link, page and reference is checked.
docs: .venv/.publish
	@$(LINK)
	NO_MKDOCS_2_WARNING=1 .venv/publish/bin/mkdocs build --quiet

# What an index would get, and whether it would take it.
package: .venv/.publish
	rm -rf dist
	.venv/publish/bin/python -m build --no-isolation
	.venv/publish/bin/twine check --strict dist/*

# The tables of options in docs/reference/commands.md, from the commands themselves.
commands: .venv/.develop
	$(BIN)/python -m tests.helpers.commands_page

format: .venv/.develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The two files of the default model: FP32 from its weights, FP16 from that. `make results` is due then.
WEIGHTS ?= docs/models/default/weights.pt

model: .venv/.develop
	$(BIN)/defocus-export $(WEIGHTS) -o engine/model/default.onnx --name default --licence BSD-3-Clause \
	    --training-data "in-focus BBBC006 fields (Broad Bioimage Benchmark Collection, Ljosa et al. 2012), DSB 2018 nuclei, \
	CellProfiler GFP examples and drawn cells, defocused by simulation"
	$(BIN)/defocus-export default --fp16 --keep-fp32 auto -o engine/model/default_fp16.onnx

# The tables and pictures of the default model in docs/, anew from its weights. DATA holds sharp fields of BBBC006 and
# DSB 2018, and the bead stacks (docs/guides/data.md).
DATA ?= ../shared/data
FIELDS = $(DATA)/bbbc006/infocus_w1 $(DATA)/bbbc006/infocus_w2 $(DATA)/dsb2018/520x696

results: .venv/.develop
	$(BIN)/python -m benchmarks.quality.heldout $(FIELDS) -o docs/results/heldout.md
	$(BIN)/python -m benchmarks.quality.heldout_twins $(FIELDS) -o docs/results/heldout_twins.md
	$(BIN)/python -m benchmarks.quality.near_focus --nuclei $(DATA)/bbbc006/infocus_w1 $(DATA)/dsb2018/520x696 \
	    --actin $(DATA)/bbbc006/infocus_w2 -o docs/results/near_focus.md
	$(BIN)/python -m benchmarks.quality.beads $(DATA)/beads -o docs/results/beads.md
	$(BIN)/python -m benchmarks.quality.trust $(FIELDS) --fields 8 --beads $(DATA)/beads \
	    --defocused $(DATA)/bbbc006/defocused_w1_z00 -o docs/results/trust.md
	$(BIN)/python -m benchmarks.quality.halo $(DATA)/bbbc006/defocused_w1_z00 --planes 2 -o docs/results/tiles.md
	$(BIN)/python -m benchmarks.speed.latency --files 40 -o docs/results/latency.md
	$(BIN)/python -m benchmarks.quality.failures -o docs/models/default/failures.png
	[ -f runs/small/suite.json ] || $(SMALL_SUITE)
	@if [ -d runs/compare/weights ]; then \
	    $(BIN)/defocus-evaluate runs/small --weights runs/compare/weights --figure drawn -o docs/results/methods; \
	else echo "the compared methods have no weights here: make compare trains them"; fi

# Every method trained for MINUTES each, then Tables 1 to 3, the figure, the scatter and the cost: runs/compare/methods.md
MINUTES ?= 3
SMALL = "*_d16_*" "*_n22_*" "*_p19_*" "*__a05__*" "0e*.png"
SMALL_SUITE = $(BIN)/python -m benchmarks.quality.defocus_suite $(FIELDS) --only $(SMALL) --crop 192 256 -o runs/small \
	--title "4 held-out wells of BBBC006, a DSB image; the middle 256 x 192 px"

compare: .venv/.develop
	[ -f runs/small/suite.json ] || $(SMALL_SUITE)
	$(BIN)/defocus-evaluate runs/small --train --minutes $(MINUTES) --runs runs/compare/runs \
	    --simulate $(DATA)/bbbc006/infocus_w2=0.45 --simulate $(DATA)/bbbc006/infocus_w1=0.12 \
	    --simulate $(DATA)/dsb2018/520x696=0.32 --simulate $(DATA)/cellprofiler_gfp=0.11 \
	    --weights runs/compare/weights --figure drawn -o runs/compare

# Every table of docs/explanation/performance.md with small numbers, 12 minutes on 2 quiet cores; BENCH is where they go.
# The environments of the others are made on the first run, which takes some minutes more. docs/explanation/performance.md has the
# commands with the full numbers.
BENCH ?= runs/bench

bench: .venv/.develop
	mkdir -p $(BENCH)
	$(BIN)/python -m benchmarks.speed.latency --files 15 -o $(BENCH)/latency.md
	$(BIN)/python -m benchmarks.speed.throughput -n 12 --repetitions 3 -o $(BENCH)/throughput.md
	$(BIN)/python -m benchmarks.speed.stages -n 60 -o $(BENCH)/stages.md
	$(BIN)/python -m benchmarks.speed.trace -o $(BENCH)/trace.md
	$(BIN)/python -m benchmarks.speed.concurrency -o $(BENCH)/concurrency.md
	$(BIN)/python -m benchmarks.speed.stream --files 30 -o $(BENCH)/stream.md
	$(BIN)/python -m benchmarks.speed.page -o $(BENCH)/page.md
	$(BIN)/python -m benchmarks.speed.priority --seconds 5 --repetitions 2 -o $(BENCH)/priority.md
	$(BIN)/python -m benchmarks.speed.start --repetitions 3 -o $(BENCH)/start.md
	$(BIN)/python -m benchmarks.speed.stack -n 40 --repetitions 2 -o $(BENCH)/stack.md
	$(BIN)/python -m benchmarks.speed.memory --files 3 --side 10000 -o $(BENCH)/memory.md
	$(BIN)/python -m benchmarks.speed.graph --repetitions 2 -o $(BENCH)/graph.md
	$(BIN)/python -m benchmarks.speed.dask_scaling -n 12 -o $(BENCH)/dask.md
	$(BIN)/python -m benchmarks.speed.peers.peers -n 6 --repetitions 2 --among 6 -o $(BENCH)/peers.md
	$(BIN)/python -m benchmarks.speed.peers.peers -n 3 --size 2048 2048 --repetitions 1 --among 2 \
	    --only defocus-run loop bioimageio -o $(BENCH)/peers_2048.md

# The package as the wheel holds it, by links: pyright and import-linter read it there.
.venv/package:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'defocus needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	mkdir -p $@/defocus
	$(LINK)

.venv/.demo: $(DECLARED) | .venv/package
	$(PIP) install --constraint constraints.txt --editable ".[cpu,demo]"
	touch $@

# An environment of its own: neither needs our dependencies, and they would disagree about versions.
.venv/.publish: constraints.txt | .venv/package
	$(PYTHON) -m venv .venv/publish
	.venv/publish/bin/pip --disable-pip-version-check --quiet install --constraint constraints.txt \
	    mkdocs-material mkdocstrings-python mkdocs-jupyter ruff build hatchling twine
	touch $@

.venv/.develop: $(DECLARED) | .venv/package
	$(PIP) install --constraint constraints.txt \
	    --editable ".[cpu,rtx,openvino,bioimageio,dask,slurm,train,demo,test,browser,acquisition,formats,napari,qt,workflow,dev]"
	touch $@

clean:
	rm -rf .venv build dist
