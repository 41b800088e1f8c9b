import json

import pytest

from ddad_jax.serving.answers import json_response


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_number_that_json_does_not_have(value):
    body = json_response({"a": [value, {"b": (value, 1.5)}], "c": "NaN"}).body

    def refuse(constant):
        raise AssertionError(constant)

    found = json.loads(body, parse_constant=refuse)
    assert found == {"a": [None, {"b": [None, 1.5]}], "c": "NaN"}
