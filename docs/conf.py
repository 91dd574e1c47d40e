"""Of the documentation site: `make docs` builds it, and warnings are errors."""

from __future__ import annotations

import sys
from pathlib import Path

from hardnet_suite import __version__, deploy, weights

for module in (
    deploy,
    weights,
):  # their names are imported when they are asked for; autodoc looks into the module
    vars(module).update({name: getattr(module, name) for name in module.__all__})

sys.path.insert(0, str(Path(__file__).parent))  # for the extension browser_page

project = "hardnet_suite"
author = "the hardnet_suite developers"
release = version = __version__

extensions = [
    "myst_nb",  # myst_parser, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "browser_page",
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as GitHub makes them

# Notebooks are committed without outputs; tests run them. `-D nb_execution_mode=force` runs them here, too,
# and the pages show what they print and draw.
nb_execution_mode = "off"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds per cell
nb_merge_streams = True

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"hardnet_suite {version}"
html_static_path = ["static"]
html_show_sourcelink = False
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"
