"""What the site needs beyond Markdown: formulas without scripts, and doctests as code."""

import html
import re
from typing import Any

import griffe
from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
NEXT = re.compile(r"\$\$\s*\$\$")  # formulas on lines that follow each other
WORD = re.compile(r"\\mathrm\{(\w+)\}")  # latex2mathml would spell it out letter by letter
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*", re.MULTILINE)


def on_page_content(content: str, **_: Any) -> str:
    """Translate every formula of a page to MathML, which browsers show by themselves."""
    return FORMULA.sub(_translate, content)


def _translate(found: re.Match[str]) -> str:
    display = "inline" if found["tag"] == "span" else "block"
    latex = WORD.sub(r"\\operatorname{\1}", html.unescape(found["latex"]))
    return "".join(convert(part, display=display) for part in NEXT.split(latex))


class FencedDoctests(griffe.Extension):
    """Fence the doctests in docstrings: Markdown would take ``>>>`` for a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(_fence, obj.docstring.value)


def _fence(found: re.Match[str]) -> str:
    indent = found["indent"]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"
