"Formulas as MathML, which browsers draw by themselves: no script, no font and no picture from anywhere."
import html
import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging


def mathml(latex:str, block:bool)->str:
    "One formula."
    latex = re.sub(r'\\text\{[^{}]*\}', lambda m: m[0].replace(r'\%', '%'), latex.strip())
    return convert(latex, display='block' if block else 'inline')


def drawn(node, block:bool)->str:
    "A formula, or its source with a warning."
    try: return mathml(node.astext(), block)
    except Exception as e: # the converter has a class for each kind of mistake
        logging.getLogger(__name__).warning('a formula that cannot be drawn (%s): %s', type(e).__name__, node.astext(), location=node)
        return f'<code>{html.escape(node.astext())}</code>'


def visit_math(self, node):
    "In a line."
    self.body.append(drawn(node, False))
    raise nodes.SkipNode


def visit_displaymath(self, node):
    "By itself; a long one scrolls."
    self.body.append(f'<div class="formula" tabindex="0" role="group" aria-label="formula">{drawn(node, True)}</div>')
    raise nodes.SkipNode


def leave(self, node):
    "Nothing is left to do: the visitors skip what is below."


def setup(app):
    app.add_html_math_renderer('mathml', (visit_math, leave), (visit_displaymath, leave))
    return dict(version='1', parallel_read_safe=True, parallel_write_safe=True)
