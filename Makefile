# make demo and make test set everything up by themselves, in .venv; a machine needs Python 3.10+, a C++20 compiler and make.
PYTHON ?= python3
VENV ?= .venv
# Any torch from 2.10 on; name another to build against a CUDA torch.
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
SOURCES = $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

.PHONY: demo test bench lint clean

demo: $(VENV)/built
	$(BIN)/python -m mi_ext.train mnist_halves --out runs/mnist_halves

test: $(VENV)/built
	$(BIN)/python -m pytest

bench: $(VENV)/built
	$(BIN)/python -m benchmarks

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu*')

$(VENV)/created: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet '$(TORCH)' numpy 'setuptools>=77' pybind11 ninja cmake
	touch $@

$(VENV)/built: $(VENV)/created $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[test,benchmark,lint]'
	touch $@

clean:
	rm -rf build $(VENV) mi_ext/*.so
