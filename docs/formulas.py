"""Formulas as MathML, which browsers draw by themselves: no script, no font, no network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def to_mathml(formula: str, node: nodes.Node, *, as_block: bool) -> str:
    """MathML of a formula in LaTeX; one that docutils cannot read is a warning, shown as it is."""
    try:
        return tex2mathml(formula, as_block=as_block)
    except MathError as error:
        logger.warning("cannot typeset %r: %s", formula, error, location=node)
        return nodes.literal(formula, formula).astext()


def visit_inline(self, node):
    self.body.append(to_mathml(node.astext(), node, as_block=False))
    raise nodes.SkipNode


def visit_block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    self.body.append(to_mathml(node.astext(), node, as_block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None)
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
