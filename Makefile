# Everything runs inside .venv, which `make setup` makes. PYTHON may be any Python 3.11 or 3.12.
PYTHON ?= python3
# More options for installing torch, e.g. the index of its CPU builds: make setup TORCH_ARGS="--index-url ..."
TORCH_ARGS ?=
# A folder of your photographs; without it the demo makes its own skin.
DEMO_FACES ?=
# The photographs that the weights which come with the package are trained on.
PHOTOS ?=
# MediaPipe's hair_segmentation.tflite, which labels hair for them.
HAIR ?=

BIN := .venv/bin
SETUP := .venv/.installed
LEGACY := .venv-legacy/.installed
CODE := $(wildcard faceeraser train compress export benchmarks)

.PHONY: setup demo release test check web wheel legacy clean

setup: $(SETUP)

# The stamp is written last, so a setup that was broken off is done again.
# torch comes first and by its exact version: left to the other packages' ranges, pip takes the newest build, which on
# Linux brings several GB of CUDA along; by that version it takes a CPU wheel of it wherever one is in reach.
$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "$(PYTHON) is not Python 3.11 or 3.12; name one: make setup PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH_ARGS) torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[all]' -c constraints.txt
	touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py --overwrite $(if $(DEMO_FACES),--faces "$(DEMO_FACES)")

# An hour and a half on two cores; go on with the same command where it was broken off. `rm -r runs/release` starts anew.
release: setup
	@test -n "$(PHOTOS)" -a -n "$(HAIR)" || { echo "name the photographs and MediaPipe's model: make release PHOTOS=folder HAIR=hair_segmentation.tflite" >&2; exit 2; }
	$(BIN)/python benchmarks/release.py "$(PHOTOS)" --hair "$(HAIR)" --json benchmarks/results/release.json

# One process for each core, each with one thread: two threads of one process wait for each other by spinning. A file's
# tests stay together, for the networks that some of them train once and share.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The page of `faceeraser demo`, into faceeraser/page; from there it goes into a wheel that is built afterwards.
web: web_demo/node_modules/.package-lock.json
	cd web_demo && npm run --silent build

web_demo/node_modules/.package-lock.json: web_demo/package-lock.json
	@command -v npm >/dev/null || { echo "the page needs npm (Node 18 or later); install it, then: make web" >&2; exit 2; }
	cd web_demo && npm ci --no-audit --no-fund

# What goes to a package index, in dist/: the page is built first, so it is inside. Tools in an environment of their own.
wheel: web
	rm -rf dist .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet build==1.6.1 twine==7.0.0
	.venv-wheel/bin/python -m build
	.venv-wheel/bin/python -m twine check --strict dist/*
	rm -rf .venv-wheel

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(CODE)

# tflite-runtime and TensorFlow 2.15 (whose GPU-compatibility check really checks) want numpy 1: a second environment.
legacy: $(LEGACY)

$(LEGACY): constraints-legacy.txt
	$(PYTHON) -m venv .venv-legacy
	.venv-legacy/bin/python -m pip install --quiet --upgrade pip
	.venv-legacy/bin/python -m pip install --quiet -r constraints-legacy.txt
	touch $@

# Environments and caches. What was prepared, trained and exported (data, runs, exports) stays.
clean:
	rm -rf .venv .venv-legacy .venv-wheel build dist web_demo/node_modules faceeraser/page *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
