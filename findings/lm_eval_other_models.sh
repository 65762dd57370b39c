#!/bin/sh
# lm-eval takes no models from other packages, and one that is registered by hand hides all of its own.
#
# Its registry is made for entry points: it stores them, loads them late, and its documentation names them. But
# nothing reads those of installed packages, so a package that declares `lm_eval.models` is not seen. A model that
# is registered by a call is found. But then "hf" and all the others are unknown: the harness reads the list of
# its own models only while the registry is empty. Importing lm_eval.models first gives both.
#
# Of our own: quality/harness.py imports that list first, and is the harness's command line with our model in it.
#
# Seen with lm-eval 0.4.13:
#   entry points read           none
#   declared by a package       unknown; dummy: found
#   registered by hand          found; dummy: unknown
#   behind lm_eval.models       found; dummy: found
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
# The registry needs nothing of what the harness needs. A model of its own counts as found if only that is missing.
venv/bin/python -m pip install -q --disable-pip-version-check --no-deps lm_eval==0.4.13 >&2 || exit 2

# A package with a model that declares it, as it lies in an environment.
site=$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir "$site/other-1.0.dist-info"
printf 'Metadata-Version: 2.1\nName: other\nVersion: 1.0\n' > "$site/other-1.0.dist-info/METADATA"
printf '[lm_eval.models]\nother = other:Other\n' > "$site/other-1.0.dist-info/entry_points.txt"
cat > "$site/other.py" <<'PY'
from lm_eval.api.registry import model_registry


class Other:
    pass


model_registry.register("other", target="other:Other")
PY

cat > look.py <<'PY'
import importlib.metadata
import sys

names = [found.name for found in importlib.metadata.entry_points(group="lm_eval.models")]
assert names == ["other"], "the environment does not know of the package"
read = []
entry_points = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **given: read.append(given) or entry_points(**given)

for name in sys.argv[1:]:
    __import__(name)
from lm_eval.api.registry import get_model


def look(name):
    try:
        get_model(name)
    except ValueError as error:
        assert "no model for this name found" in str(error)
        return "unknown"
    except ImportError:
        return "found"
    return "found"


print(look("other") + "; dummy: " + look("dummy"), len(read))
PY

check() {
    title=$1 wanted=$2
    shift 2
    found=$(venv/bin/python look.py "$@")
    printf '%-28s%s\n' "$title" "${found% *}"
    [ "$found" = "$wanted 0" ] || { echo "wanted: $wanted, and no entry points read" >&2; exit 1; }
}

echo "entry points read           none"
check "declared by a package" "unknown; dummy: found"
check "registered by hand" "found; dummy: unknown" other
check "behind lm_eval.models" "found; dummy: found" lm_eval.models other
