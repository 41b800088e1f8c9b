"""A hook of MkDocs: equations as MathML, which browsers draw without any script.

In the pages they are fenced as `math`, which GitHub draws too.
"""

import re

from latex2mathml.converter import convert

EQUATION = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with its equations drawn."""
    return EQUATION.sub(
        lambda found: f'<div class="equation">{convert(found[1], display="block")}</div>', markdown
    )
