import jax
import jax.numpy as jnp

from ddad_jax.machine.hlo import Program
from ddad_jax.machine.traffic import traffic_bytes
from tests.machine.test_hlo import BESIDE, LOOP

SLICES = """%slicing (p: f32[32,64], n: s32[], q: f32[64]) -> f32[64] {
  %p = f32[32,64]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %q = f32[64]{0} parameter(2)
  %row = f32[1,64]{1,0} dynamic-slice(%p, %n, %zero), dynamic_slice_sizes={1,64}
  %flat = f32[64]{0} bitcast(%row)
  ROOT %sum = f32[64]{0} add(%flat, %q)
}

%updating (p: f32[32,64], u: f32[1,64], n: s32[]) -> f32[32,64] {
  %p.1 = f32[32,64]{1,0} parameter(0)
  %u = f32[1,64]{1,0} parameter(1)
  %n.1 = s32[] parameter(2)
  %new = f32[32,64]{1,0} dynamic-update-slice(%p.1, %u, %n.1, %zero)
  ROOT %same = f32[32,64]{1,0} bitcast(%new)
}

%body (state: (s32[], f32[32,64], f32[64])) -> (s32[], f32[32,64], f32[64]) {
  %state = (s32[], f32[32,64]{1,0:T(8,128)}, f32[64]{0:S(1)}) parameter(0)
  %number = s32[]{:T(128)} get-tuple-element(%state), index=0
  %rows = f32[32,64]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %near = f32[64]{0:S(1)} get-tuple-element(%state), index=2
  %one = f32[64]{0:S(1)} fusion(%rows, %number, %near), kind=kLoop, calls=%slicing
  %u.1 = f32[1,64]{1,0:S(1)} bitcast(%one)
  %all = f32[32,64]{1,0} fusion(%rows, %u.1, %number), kind=kLoop, calls=%updating
  ROOT %next = (s32[], f32[32,64]{1,0}, f32[64]{0:S(1)}) tuple(%number, %all, %one)
}

%go (state: (s32[], f32[32,64], f32[64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(32)
  %state.1 = (s32[], f32[32,64]{1,0}, f32[64]{0:S(1)}) parameter(0)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %go_on = pred[]{:T(512)} compare(%at, %limit), direction=LT
}

ENTRY %main (a: (s32[], f32[32,64], f32[64])) -> (s32[], f32[32,64], f32[64]) {
  %a = (s32[], f32[32,64]{1,0}, f32[64]{0:S(1)}) parameter(0)
  ROOT %w = (s32[], f32[32,64], f32[64]) while(%a), condition=%go, body=%body, metadata={}
}
"""


def test_loops_move_their_bytes_in_every_round():
    # The all-reduce reads 64 bytes and writes 64; the all-gather that two fusions begin and end
    # reads 512 and writes 4096; of what else is begun only the results are in the text.
    assert traffic_bytes(Program(LOOP)) == 10 * 128 + (512 + 4096) + 64 + 36


def test_a_collective_beside_a_loop_moves_its_bytes_once():
    assert traffic_bytes(Program(BESIDE)) == traffic_bytes(Program(LOOP))


def test_of_an_array_that_is_handed_on_nothing_is_moved():
    """A fusion writes a row of each of two arrays and gives a third on."""
    program = """%rows (p: f32[32,64], q: f32[32,64], r: f32[32,64], u: f32[1,64]) -> (f32[32,64]) {
  %p = f32[32,64]{1,0} parameter(0)
  %q = f32[32,64]{1,0} parameter(1)
  %r = f32[32,64]{1,0} parameter(2)
  %u = f32[1,64]{1,0} parameter(3)
  %s = f32[32,64]{1,0} dynamic-update-slice(%p, %u, %zero)
  %t = f32[32,64]{1,0} dynamic-update-slice(%q, %u, %zero)
  ROOT %all = (f32[32,64]{1,0}, f32[32,64]{1,0}, f32[32,64]{1,0}) tuple(%s, %t, %r)
}

ENTRY %main (a: f32[32,64], b: f32[32,64], c: f32[32,64], d: f32[1,64]) -> (f32[32,64]) {
  %a = f32[32,64]{1,0} parameter(0)
  %b = f32[32,64]{1,0} parameter(1)
  %c = f32[32,64]{1,0} parameter(2)
  %d = f32[1,64]{1,0} parameter(3)
  ROOT %f = (f32[32,64], f32[32,64], f32[32,64]) fusion(%a, %b, %c, %d), calls=%rows
}
"""
    # What is written twice is read twice at most.
    assert 3 * 256 <= traffic_bytes(Program(program)) <= 4 * 256


def test_what_is_begun_moves_what_it_copies():
    program = """ENTRY %main (a: bf16[3,8,64]) -> bf16[3,8,64] {
  %a = bf16[3,8,64]{2,1,0:T(8,128)} parameter(0)
  %to = (bf16[3,8,64]{2,1,0:S(1)}, bf16[3,8,64]{2,1,0}, u32[]{:S(2)}) copy-start(%a)
  %on = bf16[3,8,64]{2,1,0:S(1)} copy-done(%to)
  %part = ((bf16[3,8,64]{2,1,0}), bf16[1,8,64]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%a)
  ROOT %from = (bf16[3,8,64]{2,1,0}, bf16[3,8,64]{2,1,0:S(1)}, u32[]{:S(2)}) copy-start(%on)
}
"""
    whole = 2 * 3 * 8 * 64
    assert traffic_bytes(Program(program)) == whole + whole // 3 + whole


def test_traffic_is_what_is_read_and_written_of_main_memory():
    """Each round reads a row and its number, adds what is on the chip, and writes a row.

    Its condition reads two numbers and writes a byte.
    """
    program = Program(SLICES)
    assert program.times["body"] == 32
    assert traffic_bytes(program) == 32 * (64 * 4 + 4 + 64 * 4 + 4 + 9)


def test_a_compiled_loop_moves_its_bytes_in_every_round():
    def looped(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=7)[0]

    program = Program(jax.jit(looped).lower(jnp.ones((8, 8))).compile().as_text())
    # A product reads a matrix twice and writes one, its sine reads and writes one; loops copy some.
    assert 7 * 3 * 8 * 8 * 4 <= traffic_bytes(program) <= 7 * 8 * 8 * 8 * 4
