"""Templates of questions: texts with a name, in which `$question` stands for what the user adds.

Some come with the package; a file NAME.md in the user's folder of templates is one too, and hides the
shipped one of that name.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from codellama.cli.folders import config_folder
from codellama.errors import InvalidRequestError

SHIPPED = Path(__file__).parent / "templates"


def own_templates() -> Path:
    """The folder of the user's templates, which need not exist."""
    return config_folder() / "templates"


def template_names() -> list[str]:
    """The names of all templates."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.md")})


def from_template(name: str, question: str) -> str:
    """The question that a template makes of what the user adds, which may be empty.

    Raises InvalidRequestError if there is no such template.
    """
    paths = [folder / f"{name}.md" for folder in _folders() if name in template_names()]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InvalidRequestError(
            "{param}: there is no template {name!r}; there are {names}, and {folder} is for your own",
            "template",
            name=name,
            names=", ".join(template_names()),
            folder=own_templates(),
        )
    text = path.read_text("utf-8-sig").strip()
    if "$question" not in text and "${question}" not in text:
        text += "\n\n$question"
    return Template(text).safe_substitute(question=question).strip()


def _folders() -> list[Path]:
    return [own_templates(), SHIPPED]
