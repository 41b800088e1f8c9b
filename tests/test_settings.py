from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ddad_jax.settings import Checked, SettingError, explanations, read, section, setting, walk


@dataclass(frozen=True)
class Inner(Checked):
    """Something inside.

    Attributes:
      steps: how many
        there are.
      rate: how fast.
    """

    steps: int = setting(1, changes="own", low=1, high=9)
    rate: float = setting(0.5, changes="nothing", above=0, below=1)

    def check_together(self) -> None:
        if self.steps > 5 and self.rate > 0.8:
            raise SettingError("rate", f"{self.rate} is too high for {self.steps} steps")


@dataclass(frozen=True)
class Outer(Checked):
    """Something outside."""

    kind: Literal["a", "b"] = setting("a", changes="detector")
    sizes: tuple[int, ...] = setting((1, 2), changes="detector", low=1)
    flag: bool = setting(False, changes="metrics")
    table: dict[str, Any] = setting({}, changes="detector")
    denoiser: Inner = section(Inner, steps=3)
    follows: int = 7


def test_defaults_and_what_is_given():
    found = read(Outer, {"kind": "b", "sizes": [4, 5], "denoiser": {"rate": 0.25}})
    assert found == Outer(kind="b", sizes=(4, 5), denoiser=Inner(steps=1, rate=0.25))
    assert Outer().denoiser.steps == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "c"}, "^kind: 'c' is not one of a, b$"),
        ({"kinds": "a"}, "^kinds: there is no setting 'kinds'; did you mean 'kind'"),
        ({"follows": 3}, "^follows: there is no setting"),
        ({"sizes": (0, 1)}, "^sizes: 0 must be at least 1$"),
        ({"sizes": 3}, "^sizes: 3 is not a list of values"),
        ({"sizes": (1.5,)}, "^sizes: 1.5 is not a whole number$"),
        ({"flag": 1}, "^flag: 1 is not True or False$"),
        ({"table": 3}, "^table: 3 is not a table of settings$"),
        ({"denoiser": 3}, "^denoiser: 3 is not a table of settings$"),
        ({"denoiser": {"steps": True}}, "^denoiser.steps: True is not a whole number$"),
        ({"denoiser": {"steps": 10}}, "^denoiser.steps: 10 must be at least 1 and at most 9$"),
        ({"denoiser": {"rate": 0}}, "^denoiser.rate: 0.0 must be above 0 and below 1$"),
        ({"denoiser": {"rate": float("nan")}}, "^denoiser.rate: nan is not a finite number$"),
        ({"denoiser": {"steps": 6, "rate": 0.9}}, "^denoiser.rate: 0.9 is too high for 6 steps$"),
    ],
)
def test_what_cannot_be_is_refused_by_name(values, message):
    with pytest.raises(SettingError, match=message):
        read(Outer, values)


def test_every_setting_says_what_it_changes():
    found = {name: changes for name, _, _, changes in walk(Outer())}
    assert found == {
        "kind": "detector",
        "sizes": "detector",
        "flag": "metrics",
        "table": "detector",
        "denoiser.steps": "denoiser",
        "denoiser.rate": "nothing",
    }


def test_explanations_are_those_of_the_docstring():
    assert explanations(Inner) == {"steps": "how many there are.", "rate": "how fast."}
    assert explanations(Outer) == {}
