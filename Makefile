# make demo and make test set everything up by themselves, in .venv; a machine needs Python 3.10+, a C++20 compiler and make.
PYTHON ?= python3
VENV ?= .venv
# Any torch from 2.10 on; name another to build against a CUDA torch.
TORCH ?= torch==2.13.0
# Packages that mi_ext.dropin is tested beside, or benchmarks.cuda_model counts, without what they depend on (torchvision,
# timm, …): their losses do not need it.
PEERS = lightly==1.6.0 open_clip_torch==3.3.0 inf-cl==1.2.1 cut-cross-entropy==25.1.1 liger-kernel==0.8.5
BIN = $(VENV)/bin
SOURCES = $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

# A CUDA build of torch in an environment of its own (5.6 GB), kept between runs, and a build of mi_ext for it.
CUDA_VENV ?= .venv-cuda
CUDA_TORCH ?= torch==2.14.1
CUDA_BIN = $(abspath $(CUDA_VENV))/bin
CUDA_BUILD = build/cuda
CUDA_TESTS = $(addprefix $(CURDIR)/tests/test_, cuda_build.py devices.py device_errors.py gpu.py gpu_gathered.py \
	gpu_ranking.py ops_oracle.py ops_edges.py)

# The oldest torch that is promised, likewise.
OLDEST_VENV ?= .venv-oldest
OLDEST_TORCH = torch==2.10.0
OLDEST_BIN = $(abspath $(OLDEST_VENV))/bin
OLDEST_BUILD = build/oldest
OLDEST_TESTS = $(addprefix $(CURDIR)/tests/test_, build.py ops_torch.py conventions_compile.py)

.PHONY: demo test test-cuda cuda-venv test-oldest oldest-venv bench lint docs clean

demo: $(VENV)/built
	$(BIN)/python -m mi_ext.train mnist_halves --out runs/mnist_halves

test: $(VENV)/built
	$(BIN)/python -m pytest -n 2 --dist loadfile

# That a build with CUDA is complete and does on the CPU what another does; on a GPU all that there is to test, if there is one.
test-cuda: $(CUDA_BUILD)/built
	cd $(CUDA_BUILD) && PYTHONPATH=site $(CUDA_BIN)/pytest $(CUDA_TESTS) -k 'cuda or gpu or devices or layouts or log_weights'

# That the sources build against the oldest torch, and what depends on torch's version most; docs/building.md says what
# does not work there.
test-oldest: $(OLDEST_BUILD)/built
	cd $(OLDEST_BUILD) && PYTHONPATH=site $(OLDEST_BIN)/pytest $(OLDEST_TESTS) -k 'not sobolev_penalty'

bench: $(VENV)/built
	$(BIN)/python -m benchmarks

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu*')

# The pages of docs/ as a site in build/site; a warning is an error.
docs: $(VENV)/built
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(VENV)/created: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet '$(TORCH)' numpy 'setuptools>=77' pybind11 ninja cmake
	touch $@

$(VENV)/built: $(VENV)/created $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[test,benchmark,lint,docs,peers]'
	$(BIN)/pip install --quiet --no-deps $(PEERS)
	touch $@

cuda-venv: $(CUDA_VENV)/ready
oldest-venv: $(OLDEST_VENV)/ready

$(CUDA_VENV)/ready: OTHER_TORCH = $(CUDA_TORCH)
$(OLDEST_VENV)/ready: OTHER_TORCH = $(OLDEST_TORCH)
$(CUDA_VENV)/ready $(OLDEST_VENV)/ready: pyproject.toml
	$(MAKE) VENV=$(@D) TORCH='$(OTHER_TORCH)' $(@D)/created
	$(@D)/bin/pip install --quiet pytest
	touch $@

$(CUDA_BUILD)/built: $(CUDA_VENV)/ready
	MI_EXT_CUDA=1 PATH=$(CUDA_BIN):$$PATH $(CUDA_BIN)/python setup.py --quiet build \
		--build-temp $(CUDA_BUILD)/temp --build-lib $(CUDA_BUILD)/site
	touch $@

$(OLDEST_BUILD)/built: $(OLDEST_VENV)/ready
	MI_EXT_CUDA=0 PATH=$(OLDEST_BIN):$$PATH $(OLDEST_BIN)/python setup.py --quiet build \
		--build-temp $(OLDEST_BUILD)/temp --build-lib $(OLDEST_BUILD)/site
	touch $@

$(CUDA_BUILD)/built $(OLDEST_BUILD)/built: $(SOURCES) $(shell find mi_ext -name '*.py')

clean:
	rm -rf build $(VENV) $(CUDA_VENV) $(OLDEST_VENV) mi_ext/*.so
