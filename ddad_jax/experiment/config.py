"""Reads the settings of an experiment from config files and the command line."""

import ast
import contextlib
import importlib.util
import traceback
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

import ddad_jax
from ddad_jax import settings
from ddad_jax.errors import UserError
from ddad_jax.experiment.schema import PRESETS, Config
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import local_path
from ddad_jax.settings import Checked, SettingError, near

PACKAGE = Path(ddad_jax.__file__).parent
# Where the configs are: in a checkout, and in an installed package.
SHIPPED = (PACKAGE.parent / "configs", PACKAGE / "configs")


def default_config() -> ConfigDict:
    """Returns every setting at its default, to be changed by a config file.

    Settings that a preset decides have no value until they are given one.
    """
    config = _tree(Config())
    for name, value in PRESETS[config.preset].items():
        config.detection[name] = placeholder(type(value))
    config.lock()
    _unlock_tables(config, Config)
    return config


def _tree(of: Checked) -> ConfigDict:
    found = ConfigDict()
    for field in fields(of):
        value = getattr(of, field.name)
        if settings.is_section(field.type):
            found[field.name] = _tree(value)
        elif "changes" in field.metadata:
            found[field.name] = ConfigDict(value) if isinstance(value, dict) else value
    return found


def _unlock_tables(config: ConfigDict, kind: type) -> None:
    """Lets tables whose entries no dataclass names, such as a source's settings, take any."""
    for field in fields(kind):
        if settings.is_section(field.type):
            _unlock_tables(config[field.name], field.type)
        elif typing.get_origin(field.type) is dict:
            config[field.name].unlock()


def shipped_configs() -> dict[str, Path]:
    """Returns the configs that come with the package, by name."""
    folder = next((each for each in SHIPPED if each.is_dir()), None)
    paths = sorted(folder.glob("*.py")) if folder else []
    return {path.stem: path for path in paths if path.stem != "__init__"}


def load_config(name: str) -> ConfigDict:
    """Loads a config file and returns its config.

    Args:
      name: the path of a file with a function `get_config`, or the name of a config that comes with
        the package, such as "demo" or "configs/demo.py".

    Raises:
      UserError: there is no such file, or it cannot be used; names the line.
    """
    path = _config_path(name).resolve()
    spec = importlib.util.spec_from_file_location(f"ddad_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # It is the path of a Python file.
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # A config file is a program: it may fail in any way.
        raise UserError(f"--config={name}: {_place(path, error)}{_reason(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={name}: get_config() gives {config!r}, expected a ConfigDict")
    return config


def _config_path(name: str) -> Path:
    path = local_path(name, "--config")
    if path.is_file() and path.suffix == ".py":
        return path
    shipped = shipped_configs()
    is_name = path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py")
    if is_name and path.stem in shipped:
        return shipped[path.stem]
    known = ", ".join(shipped)
    raise UserError(
        f"--config={name}: there is no such file; name a .py file, or one of {known}, such as "
        "--config=demo"
    )


def _place(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [
        each.lineno
        for each in traceback.extract_tb(error.__traceback__)
        if each.filename == str(path)
    ]
    return f"line {lines[-1]}: " if lines else ""


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "configs":
        return (
            "'configs' can only be imported in a checkout's own folder; write "
            "load_config('default') with `from ddad_jax.experiment.config import load_config`"
        )
    # In between, ConfigDict lists all of its values.
    said, _, listed = str(error).strip("\"'").replace("\\n", " ").partition(" Other fields present")
    _, hint, meant = listed.partition("Did you mean")
    return f"{type(error).__name__}: {' '.join(f'{said} {hint}{meant}'.split())}"


def override(config: ConfigDict, assignments: Sequence[tuple[str, str]]) -> None:
    """Changes settings as given on the command line.

    Args:
      config: the config to change.
      assignments: dotted names with values as text. Lists may be written (1,2), [1,2] or 1,2.

    Raises:
      SettingError: there is no such setting, or the text is not a value of its type.
    """
    for name, text in assignments:
        _assign(config, Config, name, name.split("."), text)


def _assign(config: ConfigDict, kind: type, name: str, parts: list[str], text: str) -> None:
    first, *rest = parts
    known = {field.name: field.type for field in fields(kind) if field.name in config}
    if first not in known:
        raise SettingError(name, f"there is no setting '{first}'{near(first, list(known))}")
    inner = known[first]
    if settings.is_section(inner):
        if not rest:
            inside = ", ".join(f"{name}.{each}" for each in config[first])
            raise SettingError(name, f"is a section; its settings are {inside}")
        _assign(config[first], inner, name, rest, text)
    elif typing.get_origin(inner) is dict:
        _assign_in_table(config, first, name, rest, text)
    elif rest:
        raise SettingError(name, f"there is no setting '{rest[0]}'; '{first}' has none below it")
    else:
        config[first] = parse(inner, name, text)


def _assign_in_table(config: ConfigDict, first: str, name: str, rest: list[str], text: str) -> None:
    """Sets an entry of a table that takes any name, or, if `rest` is empty, the whole table."""
    if not rest:
        value = _literal(text)
        if not isinstance(value, dict):
            raise SettingError(name, f"'{text}' is not a table of settings, such as {{'name': 1}}")
        config[first] = ConfigDict(value)
        return
    table = config[first]
    for part in rest[:-1]:
        if part not in table:
            table[part] = ConfigDict()
        table = table[part]
    value = text if isinstance(table.get(rest[-1]), str) else _literal(text)
    with table.ignore_type():
        table[rest[-1]] = value


def _literal(text: str) -> Any:
    """Returns the Python value that a text stands for, or the text; yes and no are booleans."""
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def parse(kind: Any, name: str, text: str) -> Any:
    """Parses the text of a command line as a value of a setting's type.

    Raises:
      SettingError: the text is not such a value.
    """
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        bare = text.strip()
        if bare[:1] + bare[-1:] in ("()", "[]"):
            bare = bare[1:-1]
        return tuple(parse(inner, name, each.strip()) for each in bare.split(",") if each.strip())
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices:
        kind = type(choices[0])
    value: Any
    if kind is str:
        value = text.strip("'\"") if text[:1] in ("'", '"') else text
    elif kind is bool:
        value = TRUTH.get(text.lower(), text)
    else:
        value = _number(kind, text)
    problem = settings.problem(kind, value, {})
    if problem:
        raise SettingError(name, problem)
    return value


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def read_config(config: ConfigDict | Mapping[str, Any]) -> Config:
    """Returns the settings of a config, checked, with "~" in their paths expanded.

    Settings that a preset decides get the preset's values if they have none.

    Raises:
      UserError: a value is not allowed, or a path is a URL that is not supported there.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    # An unknown preset is reported below.
    decided = PRESETS.get(str(values.get("preset")), PRESETS[Config.preset])
    detection = values.get("detection", {})
    if isinstance(detection, Mapping):
        lacking = {name: of for name, of in decided.items() if detection.get(name) is None}
        values["detection"] = {**detection, **lacking}
    return _expanded(settings.read(Config, values))


def _expanded(of: Checked, prefix: str = "") -> Any:
    changed = {}
    for field in fields(of):
        value, name = getattr(of, field.name), f"{prefix}{field.name}"
        if isinstance(value, Checked):
            changed[field.name] = _expanded(value, f"{name}.")
        elif field.metadata.get("path") and value:
            changed[field.name] = _path(name, value)
    return replace(of, **changed)


def _path(name: str, value: str) -> str:
    # Folders in a bucket are read from a copy here, but the cache is written to.
    if is_url(value) and name != "data.cache":
        return value
    return str(local_path(value, name)) if value.startswith("~") or "://" in value else value
