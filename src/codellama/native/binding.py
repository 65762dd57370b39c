"""The package `llama_cpp`: llama.cpp's C functions, and what else is in it once somebody asks for it.

A plain `import llama_cpp` also runs that package's own model class, chat templates and disk cache. Nothing
here uses them, and they take longer than loading a small model. So the package is entered into
`sys.modules` with the names of its bindings only. The first name beyond them, whoever asks for it, runs
the package as usual. A package that has been imported before is taken as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

_NAME = "llama_cpp"


def _with_bindings_only() -> ModuleType:
    """The package `llama_cpp`; its `__init__` has not run yet, unless it had before."""
    spec = importlib.util.find_spec(_NAME)
    if _NAME in sys.modules or spec is None or spec.loader is None:
        return importlib.import_module(_NAME)
    loader = spec.loader
    package = importlib.util.module_from_spec(spec)
    lock = threading.RLock()  # the package asks for its own names while it runs
    has_run = False

    def rest(name: str) -> Any:
        """Called for a name that the package lacks."""
        nonlocal has_run
        with lock:
            if not has_run:
                has_run = True
                loader.exec_module(package)
        if name not in vars(package):
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return vars(package)[name]

    sys.modules[_NAME] = package
    try:
        bindings = importlib.import_module(f"{_NAME}.llama_cpp")
    except BaseException:
        del sys.modules[_NAME]
        raise
    vars(package).update((k, v) for k, v in vars(bindings).items() if not k.startswith("_"))
    vars(package)["__getattr__"] = rest
    return package


def version() -> str:
    """Version of llama-cpp-python, and so of the llama.cpp in it."""
    from importlib.metadata import version  # the package's own `__version__` would run all of it

    return version("llama-cpp-python")


if TYPE_CHECKING:
    import llama_cpp as llama_cpp
else:
    llama_cpp = _with_bindings_only()
