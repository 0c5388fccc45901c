"""What the documentation site takes from the code and from files outside docs/ when it is built (`make docs`)."""

import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from elfs_ray.config import EXECUTION, RunConfig
from elfs_ray.methods.catalogue import BUILT_IN
from elfs_ray.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
# Files outside docs/ that are pages of the site, by their place in the repository.
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "configs/README.md": "papers-settings.md",
}
TARGETS = {**OUTSIDE, "README.md": "index.md"}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
GENERATED = re.compile(r"^<!-- generated: (?P<name>[a-z]+) -->$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show ```math blocks, which GitHub shows too, as MathML: browsers draw it without any script."""
    math = {"name": "math", "class": "math", "format": _math}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [math]
    return config


def _math(source: str, *_: Any, **__: Any) -> str:
    return f'<div class="math" role="math" aria-label={quoteattr(source)}>{convert(source, display="block")}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill in what is generated, and point links that leave or enter docs/ to pages of the site."""
    markdown = GENERATED.sub(lambda found: GENERATORS[found["name"]](), markdown)
    here = page.file.src_uri
    source = {name: source for source, name in OUTSIDE.items()}.get(here, f"docs/{here}")
    return LINK.sub(lambda found: _moved(found, here, source), markdown)


def _moved(found: re.Match[str], here: str, source: str) -> str:
    """A link as it is right in the site; one that the site does not hold stays as it is, and fails the build."""
    if "://" in found["target"] or found["target"].startswith("mailto:"):
        return found[0]
    in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["target"]))
    in_site = TARGETS.get(in_repository)
    if in_site is None and in_repository.startswith("docs/"):
        in_site = in_repository.removeprefix("docs/")
    if in_site is None:
        return found[0]
    return f"[{found['text']}]({posixpath.relpath(in_site, posixpath.dirname(here) or '.')}{found['anchor'] or ''})"


def command_line() -> str:
    """Every command with its options, as Typer itself writes them."""
    command = [sys.executable, "-m", "typer", "elfs_ray.cli", "utils", "docs", "--name", "elfs-ray"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = text.partition("\n")[2]  # the page has its own title
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # a list with the beginning of each sentence


def configuration() -> str:
    """A table of the options of each section: type and range, default, meaning."""
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items() if _is_section(field)}
    plain = {name: field for name, field in RunConfig.model_fields.items() if name not in sections}
    parts = ["## A run\n", str(RunConfig.__doc__), "", *_table(RunConfig, plain, "")]
    for name, model in sections.items():
        parts += [f"\n## `{name}`\n", str(model.__doc__), "", *_table(model, model.model_fields, f"{name}.")]
    return "\n".join(parts)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _table(model: type[BaseModel], fields: dict[str, FieldInfo], prefix: str) -> Iterator[str]:
    properties = model.model_json_schema()["properties"]
    yield "| option | values | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        if not field.description:
            raise ValueError(f"option {prefix}{name} has no description; give it one in elfs_ray/config.py")
        extra = field.json_schema_extra
        speed = " *(speed or memory only)*" if isinstance(extra, dict) and extra.get(EXECUTION) else ""
        default = "required" if field.is_required() else f"`{_default(field)}`"
        yield f"| `{prefix}{name}` | {_values(properties[name])} | {default} | {field.description}{speed} |"


def _default(field: FieldInfo) -> str:
    """A default as YAML writes it."""
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def _values(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_values(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_values(schema['items'])}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    words |= {"null": "none", "object": "names and values"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return " ".join([words[schema["type"]], " and ".join(bounds)]).strip()


def stage_table() -> str:
    """All stages in the order in which they run."""
    rows = []
    for stage in STAGES:
        made = ", ".join(f"`{name}`" for name in stage.outputs)
        rows.append(f"| `{stage.command}` | {stage.summary} | {made} | {stage.scope.value} |")
    return "\n".join(["| stage | what it does | makes | runs |", "|---|---|---|---|", *rows])


def numerics() -> str:
    """The Python reference of each module of `elfs_ray.core`, below its name."""
    names = (path.stem for path in sorted((ROOT / "elfs_ray" / "core").glob("[a-z]*.py")))
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
    return "\n".join(f"## {name}\n\n::: elfs_ray.core.{name}\n{options}" for name in names)


def method_classes() -> str:
    """The Python reference of each method that comes with the package."""
    return "\n\n".join(f"::: {entry.place.replace(':', '.')}" for entry in BUILT_IN)


GENERATORS = {
    "cli": command_line,
    "configuration": configuration,
    "core": numerics,
    "methods": method_classes,
    "stages": stage_table,
}
