# Two commands do all the set-up: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# constraints.txt pins torch: a looser request takes gigabytes of GPU packages
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs test-device test-browser test-install test-zoo bench-zoo bench-factorize bench-plan bench-scale bench-distill bench-mobilenet bench-latency clean

demo: $(VENV)/.demo
	$(BIN)/sepify demo

# worksteal: who has run out of tests takes half of another's, so that no core waits for a long file
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(VENV)/.test lint
	$(PYTEST)

# the tests of `make test` under a tracer, which takes a quarter more of a CPU's time
.PHONY: coverage
coverage: $(VENV)/.test
	$(PYTEST) --cov --cov-report=term:skip-covered

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# sizes, imports, cycles and parameters of the package; beside those of a commit: AT=467f341
.PHONY: house
house: $(VENV)/.demo
	$(BIN)/python tests/house.py $(AT)

# hours on one core: other people's networks, every check; bench-zoo can be interrupted and goes on
test-zoo: $(VENV)/.zoo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/zoo -m zoo

# Debian's Chromium drives the report's page; screenshots are kept in artefacts/. Where Chromium or
# axe-core cannot be had (no root, no network), the tests that need them are skipped and say so.
test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest tests/browser -m browser

# ARM boards are played by qemu-user, at most ten minutes. Where it and the cross compilers cannot be
# installed (no root, no network), the tests are skipped and say so.
test-device: $(VENV)/.test
	which qemu-aarch64 qemu-arm aarch64-linux-gnu-g++ arm-linux-gnueabihf-g++ >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq qemu-user g++-aarch64-linux-gnu g++-arm-linux-gnueabihf; } || \
		echo "qemu-user and the cross compilers are not installed: these tests will be skipped"
	$(BIN)/python -m pytest tests/device -m device

# The wheel and the sdist in new environments of every Python from 3.10 to 3.13 that is here. Where no
# CPU build of torch is to be had for one, its environment takes gigabytes: PYTHONS=3.11 limits them.
test-install: $(VENV)/.test
	SEPIFY_TEST_PYTHONS="$(PYTHONS)" $(BIN)/python -m pytest tests/install -m install

# damaged files of every format that is read, with a new seed, until Ctrl-C; FUZZ="--seconds 300"
.PHONY: fuzz
fuzz: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore tests/fuzz.py $(FUZZ)

bench-zoo: $(VENV)/.zoo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/zoo.py

.PHONY: bench-capture
bench-capture: $(VENV)/.zoo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/capture_cost.py

bench-factorize: $(VENV)/.bench
	$(BIN)/python benchmarks/factorize.py

bench-plan: $(VENV)/.bench
	$(BIN)/python benchmarks/plan.py

bench-scale: $(VENV)/.bench
	$(BIN)/python benchmarks/factorize_scale.py

bench-distill: $(VENV)/.bench
	$(BIN)/python benchmarks/distill.py

bench-mobilenet: $(VENV)/.bench
	$(BIN)/python benchmarks/mobilenet_table.py

bench-latency: $(VENV)/.bench
	$(BIN)/python benchmarks/latency_x86.py --tune 10min

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 10) <= sys.version_info < (3, 14), "Python 3.10 to 3.13 is needed; name one: make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	$(PIP) torch==2.13.0
	$(PIP) -e '.[tvm,onnx]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(PIP) -e '.[tvm,onnx,distill,width,test]'
	touch $@

$(VENV)/.bench: $(VENV)/.test
	$(PIP) -e '.[tvm,onnx,distill,width,test,bench]'
	touch $@

$(VENV)/.zoo: $(VENV)/.test tests/zoo/packages.txt
	$(PIP) -e '.[tvm,onnx,distill,test,zoo]'
	$(PIP) --no-deps -r tests/zoo/packages.txt
	touch $@

# the documentation, into site/
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.test
	$(PIP) -e '.[tvm,onnx,test,docs]'
	touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP) -e '.[tvm,onnx,test,browser]'
	which chromium chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } \
	  || echo "Chromium was not installed: that needs Debian and root"
	cd tests/browser && npm pack --silent axe-core@4.14.1 && mv axe-core-4.14.1.tgz axe-core.tgz \
	  || echo "axe-core was not fetched: that needs npm and a network"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info sepify-demo .coverage .mypy_cache .ruff_cache .pytest_cache
