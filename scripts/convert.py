#!/usr/bin/env python3
"""The same as `codellama convert`, for people in a checkout: .venv/bin/python scripts/convert.py --help."""

from __future__ import annotations

import sys

from codellama.cli import main

if __name__ == "__main__":
    main(["convert", *sys.argv[1:]], prog_name="scripts/convert.py")
