"The site: the notebooks as they are, and the package's API; nothing is executed or downloaded."
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
project, author, release = 'synkmimic', 'The synkmimic authors', '0.1.0'
extensions = ['myst_nb', 'autodoc2']
nb_execution_mode = 'off'
myst_enable_extensions = ['dollarmath', 'amsmath']
autodoc2_packages = [dict(path='../synkmimic', exclude_files=['_modidx.py'])]
autodoc2_output_dir = 'api'
autodoc2_render_plugin = 'myst'
autodoc2_hidden_objects = ['private', 'dunder', 'undoc', 'inherited']
html_theme, html_title = 'furo', 'synkmimic'
exclude_patterns = ['_build', '**.ipynb_checkpoints', '**/*.failed.ipynb']
suppress_warnings = ['autodoc2', 'myst.header', 'myst.xref_missing', 'mystnb.unknown_mime_type', 'toc.not_readable']

# Sphinx reads below docs/ only: the notebooks are copied there (git-ignored), without Quarto's and nbdev's `#|` lines changed.
shutil.rmtree(ROOT/'docs'/'nbs', ignore_errors=True)
shutil.copytree(ROOT/'nbs', ROOT/'docs'/'nbs', ignore=shutil.ignore_patterns('.*', '*.failed.ipynb'))
