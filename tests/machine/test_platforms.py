import jax
import jax.numpy as jnp
import pytest

from ddad_jax.machine.platforms import (
    by_platform,
    for_all_platforms,
    for_any_platform,
    for_platform,
    is_for_any,
)


def program():
    """A new one at each call: JAX knows again what it has traced."""
    return jax.jit(lambda x: by_platform(x, cpu=jnp.sin, default=jnp.cos))


def traced(platform=None):
    """Names of the operations for a platform."""
    text = program().trace(jnp.ones(3)).lower(lowering_platforms=platform and (platform,)).as_text()
    return {name for name in ("sine", "cosine") if f"stablehlo.{name}" in text}


@pytest.mark.parametrize(("backend", "form"), [("cpu", "sine"), ("gpu", "cosine")])
def test_only_the_form_of_this_process_is_traced(backend, form, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert traced() == {form}
    text = str(jax.make_jaxpr(program())(jnp.ones(3)))
    assert ("sin" in text, "cos" in text) == (form == "sine", form == "cosine")


@pytest.mark.parametrize(
    ("platform", "form"), [("cpu", "sine"), ("cuda", "cosine"), ("tpu", "cosine")]
)
def test_a_program_for_all_platforms_has_on_each_its_form(platform, form):
    with for_all_platforms():
        assert traced(platform) == {form}
    assert traced() == {"sine"}


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_a_tpu_may_have_a_form_of_its_own(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    function = jax.jit(lambda x: by_platform(x, default=jnp.cos, tpu=jnp.sin))
    form = "sine" if backend == "tpu" else "cosine"
    assert f"stablehlo.{form}" in function.lower(jnp.ones(3)).as_text()


def test_a_platform_that_is_not_there_gets_its_form_alone():
    with for_platform("tpu"):
        text = jax.jit(lambda x: by_platform(x, default=jnp.cos, tpu=jnp.sin)).lower(jnp.ones(3))
        assert "stablehlo.sine" in text.as_text() and "stablehlo.cosine" not in text.as_text()
    assert traced() == {"sine"}


def test_what_knows_no_platforms_has_one_form():
    with for_any_platform():
        assert is_for_any() and traced() == {"cosine"}
        with for_all_platforms():
            assert not is_for_any()
        assert is_for_any()
    assert not is_for_any()
