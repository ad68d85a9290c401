"""Sphinx: the site's look and extensions. `pages/build.py` lays the pages and runs it."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from build import plain_docstring

project = "VideoPrism, rebuilt as notebooks"
html_title = project
copyright = ""
html_show_sphinx = html_show_copyright = False
extensions = ["myst_nb", "autoapi.extension", "sphinx-mathjax-offline"]
root_doc = "index"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
autoapi_dirs = [os.environ["VPLIB_SOURCE"]]
autoapi_root = "api"
autoapi_add_toctree_entry = False
autoapi_member_order = "bysource"
autoapi_options = ["members"]
python_use_unqualified_type_names = True
add_module_names = False
autoapi_python_class_content = "both"
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header", "autoapi.python_import_resolution"]
default_role = "literal"


def setup(app):
    app.connect("autodoc-process-docstring", plain_docstring)
