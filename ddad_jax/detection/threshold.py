"""The threshold: a score that few new good images exceed, from the scores of known good images.

The highest of n scores is exceeded by one new good image in n + 1, whatever the distribution.
A lower rate depends on the tail of the distribution, of which few scores say little. The threshold
is then set so high that the promised rate holds for tails as heavy as the heaviest of `_tails`.
"""

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Float

QUARTILES = (0.25, 0.5, 0.75)
# One score in this many may be from a defective image among the good ones, and is passed over.
ODD = 20
# The threshold rests on one of this many highest scores.
MOST_ODD = 10
# With fewer scores nothing is promised.
FEW = 5
# With fewer than `FEW` scores, the threshold is at least this many times the highest score.
SAFE = 2.0
# Random numbers that a tail is simulated with, and the most rows of them.
DRAWS, MOST_ROWS = 4_000_000, 200_000
# Share of the promised rate that is aimed at; the rest allows for the error of the simulation.
MARGIN = 0.95


def fit_threshold(scores: Float[np.ndarray, " n"], false_alarm_rate: float) -> tuple[float, float]:
    """Returns the score that new good images exceed at the given rate, and the scores' scale.

    The score is the conformal quantile if enough scores lie beyond it. Otherwise it is the median
    plus a factor times the distance from there to the highest score (or to one further down, with
    `ODD` scores or more). The factor is the one that keeps the promise of `promised_rate`.

    Args:
      scores: of good images that the banks do not hold; the usual pixel has the value 0.
      false_alarm_rate: in (0, 1).
    """
    count, ordered = len(scores), np.sort(scores)
    low, middle, high = np.quantile(ordered, QUARTILES)
    spread = (high - low) / float(np.diff(_tails()[0].ppf(QUARTILES[::2]))[0])
    beyond = _beyond(count)
    if beyond <= false_alarm_rate * (count + 1):
        threshold = ordered[-math.floor(false_alarm_rate * (count + 1))]
    else:
        threshold = middle + _stretch(count, false_alarm_rate) * (ordered[-beyond] - middle)
        if count < FEW:
            threshold = max(threshold, SAFE * ordered[-1])
            # Nor do so few scores show their scale: at least a quarter of this distance is taken.
            spread = max(spread, (threshold - middle) / 4.0)
    return float(threshold), max(float(spread), 1e-6)


def promised_rate(count: int, false_alarm_rate: float) -> float:
    """Returns the largest share of new good images that are called anomalous, on average.

    For light tails it is about half of that: with ten images or more, at most what was asked for.

    Args:
      count: good images that the threshold is from.
      false_alarm_rate: the rate that was asked for.

    Returns:
      In (0, 1]; 1 for fewer than `FEW` images, with which nothing is promised.
    """
    return 1.0 if count < FEW else _aimed_at(count, false_alarm_rate)


def _aimed_at(count: int, false_alarm_rate: float) -> float:
    beyond = _beyond(count)
    if beyond <= false_alarm_rate * (count + 1):
        return false_alarm_rate
    return min(false_alarm_rate * max(2.0, 1.0 + 10.0 / count), beyond / (count + 1))


def promise(count: int, false_alarm_rate: float) -> str:
    """Returns, in words, what a threshold from `count` good images can promise."""
    source = f"from {count} good image{'s' if count > 1 else ''}"
    asked = f"{100 * false_alarm_rate:g} %"
    promised = promised_rate(count, false_alarm_rate)
    if count < FEW:
        return (
            f"{source}, too few to promise {asked} false alarms or any other rate; it is set high, "
            f"and weak defects may be missed; use at least {FEW} good images"
        )
    if promised <= false_alarm_rate:
        return f"{source}: {asked} false alarms on average, as asked for"
    needed = math.ceil(MOST_ODD / false_alarm_rate) - 1
    return (
        f"{source}: at most {100 * promised:.2g} % false alarms on average; "
        f"promising the {asked} asked for takes {needed} good images"
    )


def _beyond(count: int) -> int:
    """Returns the rank, from the highest, of the score that a threshold rests on."""
    return min(1 + count // ODD, MOST_ODD)


def _tails() -> tuple[Any, Any]:
    """Returns the usual distribution of scores, and the heaviest that is allowed for.

    Scores are maxima of maps. Among the limit distributions of maxima, Gumbel's has light tails.
    The heavy one is Fréchet's with shape 3, whose variance is finite and whose skewness is not.
    """
    # SciPy's statistics take a second to import, and prediction alone does not need them.
    from scipy.stats import gumbel_r, invweibull

    return gumbel_r, invweibull(3)


@functools.lru_cache
def _stretch(count: int, false_alarm_rate: float) -> float:
    """Returns the factor for the distance from the median to the score at rank `_beyond`.

    It is the smallest factor whose threshold is exceeded, in simulation, at most at the promised
    rate by scores of the heaviest tail, and at most at half that rate by scores of the usual one.
    """
    from scipy.optimize import brentq

    if count == 1:
        return 1.0
    rows = min(max(DRAWS // count, 1000), MOST_ROWS)
    uniform = np.random.default_rng(0).random((rows, count))
    uniform.sort(axis=1)
    middle = uniform[:, (count - 1) // 2], uniform[:, count // 2]
    promised = _aimed_at(count, false_alarm_rate)

    def factor(distribution: Any, rate: float) -> float:
        median = sum(distribution.ppf(each) for each in middle) / 2.0
        distance = distribution.ppf(uniform[:, -_beyond(count)]) - median

        def excess(factor: float) -> float:
            return float(distribution.sf(median + factor * distance).mean()) - rate

        most = 1.0
        while excess(most) > 0.0:
            most *= 2.0
        return brentq(excess, 0.0, most, xtol=1e-3)

    usual, heaviest = _tails()
    return max(factor(heaviest, MARGIN * promised), factor(usual, 0.5 * promised))
