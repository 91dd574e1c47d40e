"""Of the documentation site: `make docs` builds it, and warnings are errors."""

from __future__ import annotations

from hardnet_suite import __version__, deploy, weights

for module in (
    deploy,
    weights,
):  # their names are imported when they are asked for; autodoc looks into the module
    vars(module).update({name: getattr(module, name) for name in module.__all__})

project = "hardnet_suite"
author = "the hardnet_suite developers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as GitHub makes them

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
html_static_path = []
html_show_sourcelink = False
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"
