#!/bin/sh
# llama-cpp-python loads two libggml: the one that its libllama uses, and another for its own llama_cpp._ggml.
#
# A wheel holds no links, so libggml.so and libggml.so.0 are two files. libllama is linked with the one, _ggml loads
# the other, and each has a list of backends of its own. It matters most where LLAMA_CPP_LIB_PATH names the folder of
# another build: libllama and the libggml that it uses come from there, _ggml still from the package. With a build for
# CPUs in the package and one for GPUs in the folder, _ggml knows of no GPU while models run on it.
#
# Of our own: native/shared_library.py asks libllama for ggml's functions, so that there is one libggml.
#
# Seen with llama-cpp-python 0.3.36 on Linux:
#   without the variable   package/libggml.so, package/libggml.so.0   the same function: no
#   with it                folder/libggml.so.0, package/libggml.so    the same function: no
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# llama-cpp-python is built, for some minutes.
venv/bin/python -m pip install -q --disable-pip-version-check numpy==2.4.6 llama-cpp-python==0.3.36 >&2 || exit 2
cp -r "$(venv/bin/python -c 'import importlib.util as u; print(u.find_spec("llama_cpp").submodule_search_locations[0])')/lib" folder

cat > look.py <<'PY'
import ctypes
import os
import sys

import llama_cpp
from llama_cpp._ggml import libggml
from llama_cpp.llama_cpp import _lib


def named(path):
    """A loaded library by its file's name, and whether it is the package's."""
    folder, name = os.path.split(path)
    return f"{'folder' if folder == os.path.realpath('folder') else 'package'}/{name}"


def address(library):
    """Where a library finds a function of ggml; libllama finds it in the libggml that it is linked with."""
    return ctypes.cast(library.ggml_backend_reg_count, ctypes.c_void_p).value


loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/libggml.so" in line}
seen = (", ".join(sorted(map(named, loaded))), "yes" if address(_lib) == address(libggml) else "no")
print(f"{sys.argv[1]:22} {seen[0]:39} the same function: {seen[1]}")
from_the_folder = "LLAMA_CPP_LIB_PATH" in os.environ
one, other = ("folder/libggml.so.0", "package/libggml.so") if from_the_folder else (
    "package/libggml.so", "package/libggml.so.0")
assert seen == (f"{one}, {other}", "no"), seen
PY
venv/bin/python look.py "without the variable"
LLAMA_CPP_LIB_PATH=$work/folder venv/bin/python look.py "with it"
