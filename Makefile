# `make demo` shows what llm-perf does; `make test` is what CI runs. Needs python3 (3.10 or newer) with venv and pip.

PYTHON ?= python3
VENV   ?= .venv
# Workers of pytest, one more than CI has cores: real engines are waited for. `make test JOBS=0` runs in one process, for a
# debugger.
JOBS   ?= 3

# Headers that DeepSpeed's NVMe offload is compiled with; missing, they are installed where apt-get is at hand.
LIBAIO ?= /usr/include/libaio.h
# The browser that tests drive; missing, it is installed likewise.
CHROMIUM ?= /usr/bin/chromium
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

BIN := $(VENV)/bin
# -qq hides pip's warnings as well as its progress; errors still show.
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# As pip does for what it installs; where PYTHONDONTWRITEBYTECODE is set, each start would compile it all again.
COMPILE := $(BIN)/python -m compileall -q llm_perf calibrate

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment at once would break it.
.NOTPARALLEL:
.PHONY: help demo fuzz mutations soak kills packaging nightly test run-demo calibrate ops llama-cpp llama-cpp-beside run-llama-cpp run-train observe wheels bench accuracy pictures docs lint format clean

help:
	@echo "make demo    predict OPT-175B on one T4 with ZeRO stage 3"
	@echo "make test    lint, type check and run all tests"
	@echo "make run-demo run a real model here in all variants, predicted beside measured (3 minutes, and make ops once)"
	@echo "make calibrate  measure this machine, fit a profile, predict a model that was left out (12 minutes)"
	@echo "make ops     compile DeepSpeed's NVMe operators, once (4 minutes on two cores)"
	@echo "make llama-cpp build llama.cpp's llama-bench, llama-quantize and llama-server, once (7 minutes on two cores)"
	@echo "make run-llama-cpp probe this CPU, run llama.cpp in 18 settings, predicted beside measured (6 minutes)"
	@echo "make run-train train three small models here in seven ways, predicted beside measured (10 minutes)"
	@echo "make observe serve llama.cpp and transformers here, observe two models each, predict a third (20 minutes)"
	@echo "make wheels  collect what a GPU machine without a network needs (docs/gpu_session.md)"
	@echo "make bench   time the simulator itself"
	@echo "make fuzz    ask what nobody would for an hour (MINUTES, SEED, ONLY)"
	@echo "make mutations put faults into a copy of the code, each of which a test must find (40 minutes; ONLY=review, drawn, redrawn, drawn_again, drawn_third or mended)"
	@echo "make soak    20,000 questions to a server of the page by 500 clients (20 minutes)"
	@echo "make kills   kill a Dask cluster under a sweep 40 times, the same bytes come out (20 minutes)"
	@echo "make packaging install what is shipped for every Python found here, and ask it there (5 minutes)"
	@echo "make nightly what takes too long for make test: all of the above, real engines and make calibrate"
	@echo "make accuracy write what is predicted of the published runs anew (README, calibrate/measurements; seconds)"
	@echo "make pictures make the pictures in docs/images, from the commands below them, and the notebook anew (a minute)"
	@echo "make docs    build the documentation into site/ (open site/index.html)"
	@echo "make lint    lint and type check only"
	@echo "make format  put the code into the project's format"
	@echo "make clean   remove $(VENV), caches and builds"

demo: $(VENV)/.base
	$(BIN)/llm-perf infer --model opt-175b --gpu t4 --ds-zero 3

test: llama-cpp-beside lint ops llama-cpp | $(CHROMIUM)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

run-demo: ops
	@$(BIN)/python -m calibrate.run.demo

# Goes on where it was interrupted; RUNS is the folder of its files, the profile among them.
RUNS ?= runs/calibration
calibrate: $(VENV)/.dev
	@$(BIN)/python -m calibrate.loop $(RUNS)

# Says what it does and how long it takes; at once where it is done. TORCH_EXTENSIONS_DIR moves it out of ~/.cache.
ops: $(VENV)/.dev | $(LIBAIO)
	@$(BIN)/python -m calibrate.probe.ops

# The same for llama.cpp (docs/calibrate_llama_cpp.md). LLM_PERF_LLAMA_CPP names a folder with programs of one's own.
llama-cpp: $(VENV)/.dev
	@$(BIN)/python -m calibrate.run.llama_cpp.build

# Installing and type checking keep one core busy. This needs nothing that is installed; llama-cpp waits for it, and says
# what went wrong.
llama-cpp-beside:
	@( [ -x $(BIN)/pip ] || { $(call create_venv,90); } ) > /dev/null 2>&1 || true
	@[ ! -x $(BIN)/pip ] || $(BIN)/python -m calibrate.run.llama_cpp.build > /dev/null 2>&1 &

run-llama-cpp: llama-cpp
	@$(BIN)/python -m calibrate.validate.llama_cpp_table

# Goes on where it was interrupted; memory and CPU seconds, so that a machine that others use will do.
run-train: $(VENV)/.dev
	@$(BIN)/python -m calibrate.run.train.table

# Goes on where it was interrupted (docs/calibrate_observe.md). ENGINE names one of them.
observe: llama-cpp
	@$(BIN)/python -m calibrate.fit.observe.loop $(ENGINE)

$(LIBAIO):
	$(SUDO) apt-get update -qq
	$(SUDO) apt-get install -qq -y --no-install-recommends libaio-dev

$(CHROMIUM):
	$(SUDO) apt-get update -qq
	$(SUDO) apt-get install -qq -y --no-install-recommends chromium

# For a GPU machine without a network (docs/gpu_session.md): pure Python, but for what is compiled for its interpreter.
WHEELS_PYTHON ?= 3.12
WHEELS := deepspeed hjson msgpack py-cpuinfo einops ninja psutil nvidia-ml-py pydantic pydantic-core annotated-types \
	typing-inspection gguf
WHEELS_FOR := --only-binary=:all: --python-version $(WHEELS_PYTHON) --implementation cp \
	--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	--platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64

wheels: $(VENV)/.dev
	@mkdir -p wheels
	DS_BUILD_OPS=0 $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -c constraints.txt -w wheels deepspeed
	$(BIN)/python -m pip download -q --no-deps -c constraints.txt -d wheels $(WHEELS_FOR) $(filter-out deepspeed,$(WHEELS))
	@ls -l wheels

bench: $(VENV)/.base
	$(BIN)/python bench/bench.py

# Each case comes from a number; a failed one is asked again with SEED, and becomes a test.
MINUTES ?= 60
fuzz: $(VENV)/.dev
	$(BIN)/python bench/fuzz.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

mutations: $(VENV)/.dev
	$(BIN)/python bench/mutations.py $(if $(ONLY),--only $(ONLY))

soak: $(VENV)/.dev
	$(BIN)/python bench/soak.py $(if $(SEED),--seed $(SEED))

kills: $(VENV)/.dev
	$(BIN)/python bench/kills.py $(if $(SEED),--seed $(SEED))

# Needs a package index; what it cannot try here it says.
packaging: $(VENV)/.dev
	$(BIN)/python bench/installed.py

# Each part says what it found; the first that fails ends it.
nightly: packaging soak kills fuzz mutations run-demo run-llama-cpp observe calibrate

accuracy: $(VENV)/.base
	$(BIN)/python bench/accuracy.py
	$(BIN)/python bench/answers.py

pictures: $(VENV)/.dev | $(CHROMIUM)
	$(BIN)/python bench/pictures.py
	$(BIN)/python bench/notebook.py

# Needs no network, and neither does looking at it.
docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict llm_perf calibrate

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps below make the second call instant: an environment is set up again only when its versions may change.

$(VENV)/.base: pyproject.toml constraints.txt
	@$(call create_venv,15)
	@$(PIP_INSTALL) -e .
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@$(call create_venv,90)
	@$(PIP_INSTALL) -e '.[dev,docs,plot,search,calibrate,explore,distributed]'
	@$(COMPILE)
	@touch $(VENV)/.base $@

# $(1): about how many seconds the installation takes. A venv that was made by half would fail forever: removed.
define create_venv
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "llm-perf needs Python 3.10 or newer: make PYTHON=...")' \
|| exit 1; \
echo "Setting up $(VENV), once: about $(1) seconds." >&2; \
$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
endef

clean:
	rm -rf $(VENV) .venv-llm-analysis build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find llm_perf calibrate hardware_specs model_specs tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
