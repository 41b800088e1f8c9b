"""Lists every setting for readers: its meaning, value, range, and what it changes.

python -m ddad_jax.experiment.reference > docs/settings.md
"""

import typing
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from typing import Any, Literal

from ddad_jax.experiment.schema import Config
from ddad_jax.settings import Checked, explanations, is_section, walk

TITLE = """# Settings

Every setting with its default: the published value, or that of preset `full`. Change one on the
command line as `--config.<name>=<value>`, or in a config file.

The column "changes" names the first product that depends on the setting: autoencoder, denoiser,
extractor, detector or metrics, in this order. All products after it depend on it too. A setting
that changes "nothing" may differ from one command to the next in the same working directory.

This page is written by `python -m ddad_jax.experiment.reference > docs/settings.md`.
"""


@dataclass(frozen=True)
class Entry:
    """One setting.

    Attributes:
      name: its dotted name.
      value: its value.
      range: which values are allowed.
      changes: the first product that it changes.
      text: its description.
    """

    name: str
    value: Any
    range: str
    changes: str
    text: str


def entries(config: Config) -> Iterator[Entry]:
    """Yields every setting of a config."""
    texts = dict(_texts(config, ""))
    for name, value, field, changes in walk(config):
        yield Entry(name, value, _range(field), changes, texts[name])


def _texts(of: Checked, prefix: str) -> Iterator[tuple[str, str]]:
    known = explanations(type(of))
    for field in fields(of):
        name = f"{prefix}{field.name}"
        if is_section(field.type):
            yield from _texts(getattr(of, field.name), f"{name}.")
        elif "changes" in field.metadata:
            yield name, known[field.name]


def _range(field: Field) -> str:
    kind, limits = field.type, field.metadata["limits"]
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    words = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    said = [f"{words[name]} {limits[name]}" for name in words if limits[name] is not None]
    return " and ".join(said)


def settings_table(config: Config) -> str:
    """Returns every setting of a config with its value, for a terminal."""
    lines = []
    for entry in entries(config):
        limits = f" ({entry.range})" if entry.range else ""
        lines += [f"--config.{entry.name}={entry.value}", f"    {entry.text}{limits}"]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Returns the content of docs/settings.md."""
    head = ["| setting | default | range | changes | meaning |", "|---|---|---|---|---|"]
    sections: dict[str, list[str]] = {}
    for entry in entries(Config()):
        rows = sections.setdefault(entry.name.rpartition(".")[0] or "general", [])
        cells = [f"`{entry.name}`", f"`{entry.value!r}`", entry.range, entry.changes, entry.text]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    parts = [TITLE]
    for name, rows in sections.items():
        parts += [f"\n## {name}\n", *head, *rows]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(settings_page(), end="")
