"""Declares settings: each once, with its default, its range and what it changes.

Settings are the fields of dataclasses derived from `Checked`. The annotation of a field gives its
type and choices (`Literal`), `setting` gives the rest, and the class's docstring describes it.
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeGuard

from ddad_jax.errors import UserError

# What a run makes, in order. A setting that changes one of them changes all after it.
PRODUCTS = ("autoencoder", "denoiser", "extractor", "detector", "metrics")
# "own": the network in whose section the setting is; "nothing": no result depends on it.
Changes = Literal["autoencoder", "denoiser", "extractor", "detector", "metrics", "own", "nothing"]


class SettingError(UserError):
    """A value that a setting cannot have; the message begins with the setting's dotted name."""

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name}: {problem}")
        self.name, self.problem = name, problem

    def within(self, section: str) -> "SettingError":
        """Returns the same error, with the section put before the setting's name."""
        return SettingError(f"{section}.{self.name}", self.problem)


def setting(
    default: Any,
    *,
    changes: Changes,
    low: int | float | None = None,
    high: int | float | None = None,
    above: int | float | None = None,
    below: int | float | None = None,
    path: bool = False,
) -> Any:
    """Returns a field of a `Checked` dataclass.

    Args:
      default: the value if none is given.
      changes: the first product that depends on it, for the identity of a run.
      low: the smallest allowed value; this and the others hold for each entry of a tuple.
      high: the largest allowed value.
      above: what it must exceed.
      below: what it must stay below.
      path: whether it is a path, in which "~" stands for the user's home folder.
    """
    limits = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"changes": changes, "limits": limits, "path": path}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type, **defaults: Any) -> Any:
    """Returns a field that is itself a `Checked` dataclass; `defaults` replace some of its own."""
    return dataclasses.field(default_factory=lambda: kind(**defaults))


@dataclasses.dataclass(frozen=True)
class Checked:
    """Settings that are checked when they are created.

    Raises:
      SettingError: a value is not allowed; names the field, the value and what is allowed.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if "limits" in field.metadata:
                value, limits = getattr(self, field.name), field.metadata["limits"]
                if found := problem(field.type, value, limits):
                    raise SettingError(field.name, found)
        self.check_together()

    def check_together(self) -> None:
        """Raises SettingError if settings that are each allowed do not fit together."""


def problem(kind: Any, value: Any, limits: Mapping[str, int | float | None]) -> str:
    """Returns why a setting of some type cannot have a value; "" if it can.

    Args:
      kind: the type.
      value: the value.
      limits: by name, as `setting` takes them.
    """
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        listed = ", ".join(map(str, choices))
        return "" if value in choices else f"'{value}' is not one of {listed}"
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return f"{value!r} is not a list of values, such as ({_example(kind)},)"
        found = (problem(typing.get_args(kind)[0], each, limits) for each in value)
        return next(filter(None, found), "")
    if not _is_of(kind, value):
        return f"{value!r} is not {_word(kind)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return f"{value} is not a finite number"
    low, high, above, below = (limits.get(name) for name in ("low", "high", "above", "below"))
    asked = [
        f"{word} {limit}"
        for word, limit in (
            ("at least", low),
            ("above", above),
            ("at most", high),
            ("below", below),
        )
        if limit is not None
    ]
    right = (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )
    return "" if right else f"{value} must be {' and '.join(asked)}"


def _is_of(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(kind, types.GenericAlias):
        kind = typing.get_origin(kind)
    return isinstance(value, kind)


def _word(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
    return words.get(kind, "a table of settings")


def _example(kind: Any) -> str:
    inner = typing.get_args(kind)[0]
    if typing.get_origin(inner) is Literal:
        return repr(typing.get_args(inner)[0])
    return "1.0" if inner is float else "'a'" if inner is str else "1"


def read(kind: type, values: Mapping[str, Any]) -> Any:
    """Reads settings from a nested mapping and checks them.

    Args:
      kind: a `Checked` dataclass.
      values: by name; a section is a mapping of its own. Missing settings get their defaults;
        lists become tuples, and whole numbers become floats where the type is float.

    Raises:
      SettingError: there is no such setting, or its value is not allowed.
    """
    fields = {
        field.name: field
        for field in dataclasses.fields(kind)
        if "changes" in field.metadata or is_section(field.type)
    }
    for name in values:
        if name not in fields:
            raise SettingError(name, f"there is no setting '{name}'{near(name, list(fields))}")
    found = {}
    for name, value in values.items():
        inner = fields[name].type
        if is_section(inner):
            if not isinstance(value, Mapping):
                raise SettingError(name, f"{value!r} is not a table of settings")
            try:
                found[name] = read(inner, value)
            except SettingError as error:
                raise error.within(name) from error
        else:
            found[name] = _converted(inner, value)
            wrong = problem(inner, found[name], fields[name].metadata["limits"])
            if wrong:
                raise SettingError(name, wrong)
    return kind(**found)


def changed(of: Checked, changes: Mapping[str, Any]) -> Any:
    """Returns a copy of the settings with some changed, given by dotted name.

    Raises:
      SettingError: a value is not allowed.
    """
    own: dict[str, Any] = {name: value for name, value in changes.items() if "." not in name}
    inside: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        first, dot, rest = name.partition(".")
        if dot:
            inside.setdefault(first, {})[rest] = value
    for name, inner in inside.items():
        try:
            own[name] = changed(getattr(of, name), inner)
        except SettingError as error:
            raise error.within(name) from error
    return dataclasses.replace(of, **own)


def near(name: str, known: list[str]) -> str:
    """Returns the end of an error: the known name that was probably meant, or all known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are {', '.join(known)}"


def _converted(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        inner = typing.get_args(kind)[0]
        return tuple(_converted(inner, each) for each in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Mapping):
        return {name: _converted(None, inner) for name, inner in value.items()}
    return tuple(value) if kind is None and isinstance(value, list) else value


def is_section(kind: Any) -> TypeGuard[type[Checked]]:
    """Whether a field of this type is a section of settings."""
    return isinstance(kind, type) and issubclass(kind, Checked)


def walk(
    settings: Checked, prefix: str = "", own: str = ""
) -> Iterator[tuple[str, Any, dataclasses.Field, str]]:
    """Yields the dotted name, value, field and first changed product of every setting.

    Args:
      settings: the settings of a section.
      prefix: what the names begin with.
      own: the network whose section it is; "" for none.
    """
    for field in dataclasses.fields(settings):
        name, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if isinstance(value, Checked):
            inside = own or (field.name if field.name in PRODUCTS else "")
            yield from walk(value, f"{name}.", inside)
        elif "changes" in field.metadata:
            changes = field.metadata["changes"]
            yield name, value, field, own if changes == "own" else changes


def explanations(kind: type) -> dict[str, str]:
    """Returns the description of each setting of a class, by name, from its docstring."""
    text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found = re.findall(r"^  (\w+): (.*(?:\n {4}.*)*)", text, re.MULTILINE)
    return {name: " ".join(lines.split()) for name, lines in found}
