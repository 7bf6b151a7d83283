"""help(mi_ext) is a table of contents, and each public name says what it is, in which unit, and of which sign."""

import inspect
import re

import pytest

import mi_ext
from mi_ext import bounds, critics, losses, negatives

PACKAGES = (bounds, losses, critics, negatives)
PUBLIC = {name: getattr(package, name) for package in PACKAGES for name in package.__all__}
PUBLIC |= {name: getattr(mi_ext, name) for name in mi_ext.__all__ if not inspect.ismodule(getattr(mi_ext, name))}
TO_IMPORT = ["distributed", "dropin"]  # packages that `import mi_ext` leaves alone
OF_NO_UNIT = {"alpha_schedule", "ml_cpc_min_alpha", "ContrastiveLoss", "shuffle_dimensions"}


def contents() -> list[str]:
    """The names on the left of the table; a package is followed by a colon."""
    lines = [re.match(r" {0,4}((?:\w+, )*\w+)(?:: | {2,})", line) for line in mi_ext.__doc__.splitlines()[1:]]
    return [name for line in lines if line for name in line[1].split(", ")]


def test_the_table_of_contents_has_every_public_name_once():
    modules = [name for name in mi_ext.__all__ if inspect.ismodule(getattr(mi_ext, name))]
    assert sorted(contents()) == sorted([*PUBLIC, *modules, *TO_IMPORT])


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring_of_its_own(name):
    assert len(PUBLIC[name].__doc__) > 40


@pytest.mark.parametrize("name", [n for package in (bounds, losses) for n in package.__all__ if n not in OF_NO_UNIT])
def test_unit_and_sign(name):
    doc = inspect.getdoc(PUBLIC[name])
    sign = "[Mm]inimise" if name in losses.__all__ else "to (maximise|subtract)"
    assert re.search(r"\b[Nn]ats\b", doc) and re.search(sign, doc)


@pytest.mark.parametrize("name", [n for n in bounds.__all__ if n not in OF_NO_UNIT])
def test_source(name):
    """A paper by its short name, which `mi_ext.bounds` spells out."""
    doc = inspect.getdoc(PUBLIC[name])
    papers = re.findall(r"\[([A-Z]{3,5})\]", doc)
    assert papers and all(f"[{paper}]" in bounds.__doc__ for paper in papers)


def functions():
    for name, value in PUBLIC.items():
        if inspect.isfunction(value):
            yield name, value
        else:
            methods = {
                n: m for n, m in vars(value).items() if inspect.isfunction(m) and (n[0] != "_" or n == "__init__")
            }
            yield from ((f"{name}.{n}", m) for n, m in methods.items())


@pytest.mark.parametrize("name,function", list(functions()), ids=lambda value: value if isinstance(value, str) else "")
def test_everything_public_is_annotated(name, function):
    """mypy says the same in `make lint`."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    untyped = [p.name for p in parameters if p.annotation is p.empty]
    assert not untyped and (signature.return_annotation is not signature.empty or name.endswith("__init__"))
