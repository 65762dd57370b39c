"""What hatchling calls while it builds the package: compiles the quantizers in lanes, if that is possible.

Without a compiler the package is whole but for them, and a line says so: ggml's own functions make the
same bytes, slower.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DEMO = "models/demo"
DEMO_IN_WHEEL = "codellama/models/demo_checkpoint"
LIBRARY = "src/codellama/kernels/_lanes.so"


class LanesHook(BuildHookInterface[Any]):
    """For wheels and editable installs; the latter find the library and the demo model in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel, which then is for this kind of machine."""
        if version != "editable":
            build_data["force_include"][str(Path(self.root, DEMO))] = DEMO_IN_WHEEL
        if sys.platform == "win32":
            return  # the kernels are loaded as a shared library of POSIX systems
        script = Path(self.root, "scripts", "build_lanes.py")
        library = Path(self.root, LIBRARY)
        done = subprocess.run([sys.executable, script], capture_output=True, text=True)
        if done.returncode:
            self.app.display_warning(f"{done.stderr.strip()}\nggml's quantizers will be used.")
            return
        if version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"
            build_data["pure_python"] = False
            build_data["force_include"][str(library)] = "codellama/kernels/_lanes.so"
