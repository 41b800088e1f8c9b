import jax
import jax.numpy as jnp
import pytest

from ddad_jax.machine.hlo import Program, replica_groups

LOOP = """HloModule step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%started (p: bf16[4,64]) -> (bf16[32,64], u32[]) {
  %p = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %g.1 = bf16[32,64]{1,0:T(8,128)} all-gather(%p), channel_id=1, replica_groups=mesh['a'=8] {'a'}
  ROOT %begun = (bf16[32,64], u32[]) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%ended (p: bf16[4,64]) -> bf16[32,64] {
  %p.1 = bf16[4,64]{1,0:T(8,128)(2,1)} parameter(0)
  %g.2 = bf16[32,64]{1,0} all-gather(%p.1), channel_id=1, replica_groups=mesh['a'=8] {'a'}
  ROOT %done = bf16[32,64]{1,0} custom-call(%g.2), custom_call_target="AsyncCollectiveDone"
}

%body (state: (s32[], f32[16])) -> (s32[], f32[16]) {
  %state = (s32[], f32[16]{0}) parameter(0)
  %number = s32[] get-tuple-element(%state), index=0
  %value = f32[16]{0} get-tuple-element(%state), index=1
  %summed = f32[16]{0} all-reduce(%value), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %next = (s32[], f32[16]{0}) tuple(%number, %summed)
}

%go (state: (s32[], f32[16])) -> pred[] {
  %s.1 = (s32[], f32[16]{0}) parameter(0)
  ROOT %go_on = pred[] constant(true)
}

ENTRY %main (a: bf16[4,64], b: (s32[], f32[16])) -> bf16[32,64] {
  %a = bf16[4,64]{1,0} parameter(0)
  %b = (s32[], f32[16]{0}) parameter(1)
  %start = (bf16[32,64]{1,0}, u32[]) fusion(%a), kind=kCustom, calls=%started
  %l = (s32[], f32[16]) while(%b), body=%body, backend_config={"known_trip_count":{"n":"10"}}
  %h = (f32[2]{0}, f32[16]{0}) all-gather-start(%c), channel_id=3, replica_groups=[1,8]<=[8]
  %q = (f32[9], f32[9], u32[]) collective-permute-start(%c), source_target_pairs={{0,1}}
  ROOT %end = bf16[32,64]{1,0} fusion(%a), kind=kCustom, calls=%ended
}
"""
# The same with its first all-gather going on beside each round.
BESIDE = LOOP.replace(
    "  %summed =",
    "  %step = bf16[32,64]{1,0} fusion(%value), kind=kCustom, calls=%ended\n  %summed =",
)


def test_each_collective_counts_once_and_as_often_as_its_loop_runs():
    found = {each.kind + str(each.bytes): each for each in Program(LOOP).collectives()}
    assert found.keys() == {
        "all-gather4096",
        "all-reduce64",
        "all-gather64",
        "collective-permute36",
    }
    assert [each.times for each in found.values()] == [1, 10, 1, 1]
    assert [each.asynchronous for each in found.values()] == [True, False, True, True]
    assert found["all-reduce64"].groups == [[0, 1], [2, 3]]


def test_what_goes_on_beside_a_loop_is_one_collective():
    (gathered,) = (each for each in Program(BESIDE).collectives() if each.bytes == 4096)
    assert gathered.asynchronous and gathered.times == 1


def test_a_reduce_scatter_of_a_tpu_is_a_fusion_of_its_name():
    program = """%all-reduce-scatter.4 (p: bf16[64,8], q: bf16[64,8]) -> (bf16[8,8], bf16[8,8]) {
  %p = bf16[64,8]{1,0} parameter(0)
  %q = bf16[64,8]{1,0} parameter(1)
  %r = (bf16[64,8], bf16[64,8]) all-reduce(%p, %q), channel_id=1, replica_groups=[1,8]<=[8]
  %s = bf16[64,8]{1,0} get-tuple-element(%r), index=0
  %t = bf16[64,8]{1,0} get-tuple-element(%r), index=1
  %u = bf16[8,8]{1,0} dynamic-slice(%s, %i, %o), dynamic_slice_sizes={8,8}
  %v = bf16[8,8]{1,0} dynamic-slice(%t, %i, %o), dynamic_slice_sizes={8,8}
  ROOT %w = (bf16[8,8]{1,0}, bf16[8,8]{1,0}) tuple(%u, %v)
}

ENTRY %main (a: bf16[64,8], b: bf16[64,8]) -> (bf16[8,8], bf16[8,8]) {
  %a = bf16[64,8]{1,0} parameter(0)
  %b = bf16[64,8]{1,0} parameter(1)
  ROOT %c = (bf16[8,8], bf16[8,8]) fusion(%a, %b), kind=kCustom, calls=%all-reduce-scatter.4
}
"""
    (found,) = Program(program).collectives()
    assert (found.kind, found.bytes) == ("reduce-scatter", 2 * 8 * 8 * 2)
    assert not found.asynchronous


def test_what_is_gathered_is_held_from_its_start_until_it_has_been_read():
    # The first from its start to its end, and within that the second.
    assert Program(LOOP).gathered_bytes() == 4096 + 64
    one_by_one = """ENTRY %main (a: f32[4]) -> f32[16] {
  %a = f32[4]{0} parameter(0)
  %b = f32[16]{0} all-gather(%a), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  %c = f32[16]{0} bitcast(%b)
  %d = f32[4]{0} fusion(%c), kind=kLoop, calls=%slice
  %e = f32[16]{0} all-gather(%d), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}
  %f = f32[4]{0} fusion(%e), kind=kLoop, calls=%slice
  ROOT %g = f32[4]{0} add(%f, KEPT)
}

%slice (x: f32[16]) -> f32[4] {
  %x = f32[16]{0} parameter(0)
  ROOT %y = f32[4]{0} slice(%x), slice={[0:4]}
}
"""
    assert Program(one_by_one.replace("KEPT", "%d")).gathered_bytes() == 64
    assert Program(one_by_one.replace("KEPT", "%c")).gathered_bytes() == 128


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("HloModule nothing")


@pytest.mark.parametrize(
    ("notation", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups=mesh['x'=2,'y'=2] {'x'}, dimensions={0}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['x'=2,'y'=1,'z'=2] {'x', 'z'}, to_apply=%add", [[0, 1, 2, 3]]),
    ],
)
def test_devices_are_read_in_every_notation(notation, groups):
    assert replica_groups(notation) == groups


def test_groups_that_cannot_be_read_are_no_empty_groups():
    with pytest.raises(ValueError, match="unknown notation"):
        replica_groups("replica_groups=mesh['x'=4] {'x':(1)2}")


def test_rounds_of_a_compiled_loop_are_known():
    def looped(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=7)[0]

    program = Program(jax.jit(looped).lower(jnp.ones((8, 8))).compile().as_text())
    assert 7 in program.times.values()
