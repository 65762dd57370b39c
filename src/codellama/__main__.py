"""`python -m codellama` is the `codellama` command."""

from __future__ import annotations

from codellama.cli import main

if __name__ == "__main__":
    main(prog_name="codellama")
