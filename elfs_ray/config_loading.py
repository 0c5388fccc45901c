"""The configuration of a run from files, the command line and Python, and what is wrong with it in one line."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml
from pydantic import BaseModel, ValidationError

from elfs_ray.config import (
    BetaSearchConfig,
    EmbedConfig,
    EvaluateConfig,
    IngestConfig,
    NeighborsConfig,
    ProxyConfig,
    PseudoLabelsConfig,
    RayConfig,
    ReportConfig,
    RunConfig,
    Section,
    SelectConfig,
)
from elfs_ray.errors import UsageError, one_line, wrong_value


class PickOptions(TypedDict, total=False):
    """Sections of options, each as its model (`NeighborsConfig(k=20)`) or as a dict (`{"k": 20}`).

    What they hold stands in the reference of the configuration. What trains, trains on embeddings.
    """

    ingest: IngestConfig | dict[str, Any]
    embed: EmbedConfig | dict[str, Any]
    neighbors: NeighborsConfig | dict[str, Any]
    pseudo_labels: PseudoLabelsConfig | dict[str, Any]
    proxy: ProxyConfig | dict[str, Any]
    beta_search: BetaSearchConfig | dict[str, Any]


class RunOptions(PickOptions, total=False):
    """Further options of a run by name, and its sections: each as its model or as a dict.

    What they hold stands in the reference of the configuration.
    """

    name: str
    seed: int
    allow_unmatched: bool
    select: SelectConfig | dict[str, Any]
    evaluate: EvaluateConfig | dict[str, Any]
    report: ReportConfig | dict[str, Any]
    ray: RayConfig | dict[str, Any]


def load_config(
    values: dict[str, Any],
    files: str | Path | Sequence[str | Path] | None = None,
    overrides: list[str] | None = None,
    base: dict[str, Any] | None = None,
) -> RunConfig:
    """Merge `base`, YAML files, `stage.option=value` overrides and explicit values, in this order, and validate.

    Explicit values are options by name (`embed.batch_size`), or sections of them, as models or dicts.

    Raises:
        UsageError: an unknown option (with the closest known one), a wrong type or range, or an unreadable file.
    """
    merged = _overlay(base or {}, {})
    for file in [files] if isinstance(files, (str, Path)) else files or []:
        merged = _overlay(merged, _read_yaml(Path(file)))
    for override in overrides or []:
        key, separator, text = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override!r} is not of the form stage.option=value, such as embed.batch_size=64")
        _assign(merged, key.strip().split("."), _parse_yaml(text, f"--set {override}"), override)
    for key, value in values.items():
        if isinstance(value, Section):
            value = value.model_dump(exclude_unset=True)  # noqa: PLW2901 - what the user said of it, and no default
        if isinstance(value, dict) and key in RunConfig.model_fields:
            merged = _overlay(merged, {key: value})
        else:
            _assign(merged, key.split("."), value, key)
    return validate_config(merged)


def validate_config(values: dict[str, Any]) -> RunConfig:
    """Build a `RunConfig`; raises `UsageError` with one line that names the first wrong option."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None
    if config.input is None and config.embed.vectors is None:
        raise UsageError("option 'input' is missing; pass --input or set it in a file; or pass --embeddings alone")
    return config


def saved_options(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that a manifest holds, without where it was computed: this may be another machine."""
    return {name: value for name, value in manifest.get("config", {}).items() if name != "ray"}


def without_method(base: dict[str, Any] | None, method: str | None) -> dict[str, Any] | None:
    """A saved configuration without what it says of another method."""
    select = (base or {}).get("select", {})
    if base is None or method in (None, select.get("method")):
        return base
    return {**base, "select": {name: value for name, value in select.items() if name not in ("options", "beta")}}


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of `below` with the options of `above` over it."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _overlay(merged[name], value) if both else value
    return {name: _overlay(value, {}) if isinstance(value, dict) else value for name, value in merged.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = _parse_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"configuration file {path} cannot be read: {error.strerror}; check the path") from None
    if not isinstance(content, (dict, type(None))):
        raise UsageError(f"configuration file {path} holds a {type(content).__name__}, not options; write NAME: VALUE")
    return content or {}


def _parse_yaml(text: str | bytes, where: str) -> Any:
    try:
        has_alias = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))
        content = None if has_alias else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is in no calendar
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_line(error)
        raise UsageError(f"{where} is not valid YAML{place} ({problem}); mend it, or put the value in quotes") from None
    if has_alias:  # it can stand for itself, or for more than fits in memory
        raise UsageError(f"{where} has an alias, `*NAME`; write its value out")
    return content


def _assign(target: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    for name in path[:-1]:
        target = target.setdefault(name, {})
        if not isinstance(target, dict):
            raise UsageError(f"{where!r}: {name!r} is an option, not a section; see `elfs-ray run --help`")
    target[path[-1]] = value


def _explain(error: ValidationError) -> str:
    """One line for the first problem of a validation error."""
    first = error.errors(include_url=False)[0]
    # Which member of a union a value was tried against is no part of the option's name.
    inner_types = ("function-", "constrained-", "literal[", "list[")
    location = [str(part) for part in first["loc"] if not str(part).startswith(inner_types)]
    name = "budget" if location[:1] == ["budgets"] else ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _known_options(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        return f"unknown option {name!r}; {hint}"
    if first["type"] == "missing":
        return f"option {name!r} is missing; pass --{name} or set it in the configuration file"
    if first["type"] == "model_type":
        return f"option {name!r} has the value {first['input']!r}, but is a section; set {name}.OPTION=VALUE"
    return wrong_value(name, first)


def _known_options(section: list[str]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for name in section:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return sorted(model.model_fields)
