"""`genet-ext enable` and `disable`: scripts that never import genet_ext may say `au_model="genet"`.

A one-line `.pth` file in site-packages makes Python run `import_hook.py` when it starts; that waits for
`import feat` and only then imports genet_ext.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

PTH_NAME = "genet_ext_autoload.pth"

# One line, because `site` executes .pth files line by line. Looking the package up at every start keeps the
# line silent after `pip uninstall` and right after a move. Not with importlib.util, whose import alone costs
# several times as much as the rest (which takes 1 to 2 ms).
PTH_LINE = (
    "import sys; s = next(filter(None, (f.find_spec('genet_ext', None) for f in sys.meta_path)), None); "
    "s and exec(open(s.submodule_search_locations[0] + '/pyfeat/import_hook.py').read(), "
    "{'__name__': 'genet_ext_autoload'})\n"
)


def pth_path() -> Path:
    """Where the `.pth` file of the running interpreter is, or would be."""
    return Path(sysconfig.get_path("purelib")) / PTH_NAME


def enable() -> Path:
    """Write the `.pth` file and return its path. PermissionError where site-packages cannot be written."""
    path = pth_path()
    path.write_text(PTH_LINE)
    return path


def disable() -> bool:
    """Remove the `.pth` file; False where there was none."""
    path = pth_path()
    found = path.is_file()
    path.unlink(missing_ok=True)
    return found


def is_enabled() -> bool:
    """Whether the `.pth` file is in place and is the one that this version writes."""
    path = pth_path()
    return path.is_file() and path.read_text() == PTH_LINE
