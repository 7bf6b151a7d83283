"""The pages are true: their examples run, and the reference lists every public name."""

import re
from pathlib import Path

import pytest

import mi_ext

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[str]:
    return EXAMPLE.findall(page.read_text())


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_of_a_page_run_one_after_the_other(page):
    namespace = {"__name__": "example"}
    for example in examples(page):
        exec(compile(example, str(page), "exec"), namespace)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [
        str(p.relative_to(ROOT / "docs")) for p in PAGES[1:] if str(p.relative_to(ROOT / "docs")) not in navigation
    ]
    assert not missing


@pytest.mark.parametrize("name", mi_ext.__all__)
def test_every_public_name_has_a_page(name):
    module = getattr(mi_ext, name)
    module = module.__name__ if not hasattr(module, "__module__") else module.__module__.rsplit(".", 1)[0]
    wanted = {module, f"{module}.estimate"} if module == "mi_ext" else {module}
    pages = "".join(p.read_text() for p in (ROOT / "docs/api").glob("*.md"))
    assert any(f"::: {m}\n" in pages for m in wanted), f"docs/api has no page with ::: {module}"
