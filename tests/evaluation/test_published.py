"""Published figures, written down a second time, from the papers, and held against their means."""

import numpy as np
import pytest

from ddad_jax.evaluation.published import BENCHMARKS

# method: image AUROC, pixel AUROC, PRO.
MEANS = {
    "mvtec": """
        DDAD                      99.8 98.1 92.3
        PatchCore, WideResNet-50  99.2 98.1 94.4
        EfficientAD-M             99.1 -    93.5
        GLASS                     99.9 99.3 -
        TransFusion               99.4 -    95.3
        Dinomaly-B                99.6 98.4 -
        DeCo-Diff                 99.2 98.8 95.1
    """,
    "visa": """
        D3AD                      96.0 97.9 94.1
        DDAD                      98.9 97.6 92.7
        PatchCore, WideResNet-50  95.1 -    91.2
        EfficientAD-M             98.1 -    -
        GLASS                     98.8 98.8 -
        TransFusion               98.7 -    94.7
        Dinomaly-B                98.7 -    -
        DeCo-Diff                 96.2 98.3 91.5
    """,
    "btad": """
        D3AD       95.2 - 83.2
        FastFlow   91.0 - 71.4
        CFA        94.2 - 73.1
        PatchCore  92.7 - 60.0
        RD4AD      94.3 - 77.1
        RD++       95.6 - 77.3
    """,
    "real_iad": "Dinomaly-B 89.3 - -",
}
# D3AD's own by category: image AUROC and PRO.
CATEGORIES = {
    "visa": """
        candle 95.6 92.7     capsules 88.5 95.7   cashew 94.2 89.4     chewinggum 99.7 94.1
        fryum 96.5 91.7      macaroni1 94.3 99.3  macaroni2 92.5 98.3  pcb1 97.7 96.4
        pcb2 98.3 94.0       pcb3 97.4 94.2       pcb4 99.8 86.4       pipe_fryum 96.9 97.2
    """,
    "btad": "01 98.9 80.0  02 87.0 71.7  03 99.7 97.8",
}


def figure(text):
    return None if text == "-" else float(text)


@pytest.mark.parametrize("name", MEANS)
def test_means_are_those_that_were_published(name):
    expected = {}
    for line in filter(None, map(str.strip, MEANS[name].splitlines())):
        method, *figures = line.rsplit(maxsplit=3)
        expected[method.strip()] = tuple(map(figure, figures))
    found = {
        each.method: (each.image_auroc, each.pixel_auroc, each.pro)
        for each in BENCHMARKS[name].means
    }
    assert found == expected


def test_figures_of_categories_are_those_that_were_published_and_give_the_published_mean():
    for name, text in CATEGORIES.items():
        words = text.split()
        rows = zip(words[::3], words[1::3], words[2::3], strict=True)
        benchmark = BENCHMARKS[name]
        assert benchmark.d3ad == {category: (float(i), float(p)) for category, i, p in rows}
        assert len(benchmark.d3ad) == benchmark.categories
        own = next(each for each in benchmark.means if each.method == "D3AD")
        mean = np.mean(list(benchmark.d3ad.values()), axis=0)
        np.testing.assert_allclose(mean, [own.image_auroc, own.pro], atol=0.051)


def test_counts_of_categories_are_those_of_the_data_sets():
    counts = {name: each.categories for name, each in BENCHMARKS.items()}
    assert counts == {"mvtec": 15, "visa": 12, "btad": 3, "real_iad": 30}


def test_pro_by_the_code_of_d3ad_and_ddad_alone_is_marked():
    for benchmark in BENCHMARKS.values():
        for each in benchmark.means:
            assert each.own_pro == (each.method in ("D3AD", "DDAD"))
