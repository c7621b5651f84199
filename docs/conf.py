"The site. `make docs` runs build.py, which lays out the sources under docs/_build/source, this file among them; nothing is executed and nothing is downloaded."
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

project, author, release, copyright = 'synkmimic', 'The synkmimic authors', '0.1.0', 'the synkmimic authors, MIT licence'
extensions = ['myst_nb', 'formulas']
nb_execution_mode = 'off'
nb_merge_streams = True
nb_ipywidgets_js = {} # no widgets, so no scripts of theirs from elsewhere
myst_enable_extensions = ['dollarmath', 'amsmath', 'deflist', 'colon_fence']
myst_heading_anchors = 3
myst_dmath_double_inline = True # $$...$$ inside a paragraph is still a formula of its own
html_math_renderer = 'mathml'
html_theme, html_title, language = 'furo', 'synkmimic', 'en'
html_static_path, html_css_files, html_copy_source, html_show_sphinx = ['_static'], ['site.css'], False, False
html_theme_options = dict(top_of_page_buttons=[])
templates_path, exclude_patterns = [], ['**.ipynb_checkpoints', '**/*.failed.ipynb']
python_maximum_signature_line_length = 88
add_module_names, toc_object_entries_show_parents = False, 'hide'
# A notebook begins some sections a level deeper; outputs of a kind that a page cannot show have another kind beside them.
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']
