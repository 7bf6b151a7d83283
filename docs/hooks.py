"""What pages need beyond Markdown: formulas as MathML, so that no script has to be loaded; <x, y> as plain text."""

import re
from html import unescape

from latex2mathml.converter import convert
from markdown.extensions import Extension

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


class PlainAngleBrackets(Extension):
    """<x_i, y_j> is a product, not a tag."""

    def extendMarkdown(self, md):
        md.inlinePatterns.deregister("html")


def on_config(config):
    config.markdown_extensions.append(PlainAngleBrackets())


def on_page_content(html, **_):
    return FORMULA.sub(lambda m: convert(unescape(m[2]), display="block" if m[1] == "div" else "inline"), html)
