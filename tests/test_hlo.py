"""The reader of HLO text against hand-written programs, and against XLA's own counts of programs compiled here."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from jaxssl.planning import costs as costing, hlo

TPU = """HloModule step, entry_computation_layout={(f32[1000]{0})->f32[1000]{0}}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: bf16[32,56,56,64]) -> bf16[32,56,56,64] {
  %p = bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  ROOT %m = bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)} multiply(%p, %p)
}

%body (s: (s32[], f32[1000])) -> (s32[], f32[1000]) {
  %s = (s32[], f32[1000]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[1000]{0} get-tuple-element(%s), index=1
  %w = f32[1000]{0} add(%v, %v), metadata={op_name="jit(step)/loop/add"}
  ROOT %t = (s32[], f32[1000]{0}) tuple(%i, %w)
}

%condition (s: (s32[], f32[1000])) -> pred[] {
  %s = (s32[], f32[1000]{0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (a: f32[1000], b: bf16[32,56,56,64]) -> f32[1000] {
  %a = f32[1000]{0:T(1024)} parameter(0), metadata={op_name="a"}
  %b = bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)} parameter(1)
  %copy-start.1 = (f32[1000]{0:T(1024)S(1)}, f32[1000]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = f32[1000]{0:T(1024)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)}), bf16[32,14,56,64]{3,0,2,1:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:32], [0:14], [0:56], [0:64]}
  %slice-done.1 = bf16[32,14,56,64]{3,0,2,1:T(8,128)(2,1)S(1)} slice-done(%slice-start.1)
  %f = bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%b), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/views/mul"}
  %r = f32[1000]{0:T(1024)S(1)} all-reduce(%copy-done.1), channel_id=1, replica_groups=mesh['x'=4,'y'=2,'z'=8] {'x','z'}, to_apply=%add
  %g = (f32[1000]{0:T(1024)}, f32[8000]{0:T(1024)}) all-gather-start(%a), channel_id=2, replica_groups=[2,8]<=[16], dimensions={0}, metadata={op_name="gather"}
  %gd = f32[8000]{0:T(1024)} all-gather-done(%g)
  %i = s32[] constant(0)
  %t = (s32[], f32[1000]{0}) tuple(%i, %r)
  %l = (s32[], f32[1000]{0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  ROOT %o = f32[1000]{0} get-tuple-element(%l), index=1
}
"""


def test_buffers_are_padded_to_their_tiles():
    shape = "(bf16[32,56,56,64]{3,0,2,1:T(8,128)(2,1)S(1)}, f32[]{:T(128)}, pred[3]{0}, f32[5,300]{1,0:T(8,128)})"
    found = hlo.buffers(shape)
    assert found[0] == ("bf16", (32, 56, 56, 64), 32 * 56 * 56 * 128 * 2, 1)      # 64 channels lie in lanes of 128
    assert [b.nbytes for b in found[1:]] == [4, 3, 8 * 384 * 4]
    assert [b.space for b in found] == [1, 0, 0, 0]
    assert hlo.nbytes(shape, 0) == 4 + 3 + 8 * 384 * 4


def test_costs_of_a_tpu_program():
    """Copies between memories are charged as XLA charges them; traffic to HBM once; loops by their length."""
    costs = {c.op_name: c for c in costing.costs(hlo.parse(TPU))}
    channels = 32 * 56 * 56 * 128 * 2
    assert costs["jit(step)/views/mul"] == ("jit(step)/views/mul", 2 * channels, channels, 32 * 56 * 56 * 64)
    assert costs["jit(step)/loop/add"] == ("jit(step)/loop/add", 7 * 3 * 4000, 7 * 3 * 4000, 7 * 1000)
    assert costs["a"] == ("a", 4 * 4096, 4096, 0)
    rest = [c for c in costing.costs(hlo.parse(TPU)) if not c.op_name]
    assert rest[0] == ("", 3 * channels // 4, channels // 4, 0)
    assert rest[1] == ("", 2 * 4096, 0, 0)                            # an all-reduce between on-chip arrays
    total = costing.shares(costing.costs(hlo.parse(TPU)), lambda name: "views" if "/views/" in name else "rest")
    assert total["views"].hbm == channels and total["rest"].hbm > 0


def test_collectives_and_their_groups():
    found = {c["op"]: c for c in hlo.collectives(hlo.parse(TPU))}
    assert found["all-reduce"] == {"op": "all-reduce", "dtype": "f32", "bytes": 4000, "group": 32, "times": 1, "op_name": ""}
    assert found["all-gather"] == {"op": "all-gather", "dtype": "f32", "bytes": 32000, "group": 8, "times": 1, "op_name": "gather"}
    assert hlo.group_size("replica_groups=mesh['x'=1,'y'=16,'z'=16], device_ids=([16,16]T(1,0)) {'y'}, dimensions={2}") == 16
    assert hlo.group_size("replica_groups={{0,1,2},{3,4,5}}") == 3 and hlo.group_size("replica_groups={}") == 0


def test_largest_buffers():
    first, second = hlo.largest(hlo.parse(TPU), 2)
    assert first == {"bytes": 32 * 56 * 56 * 128 * 2, "shape": "bf16[32,56,56,64]", "op_name": "b"}
    assert second == {"bytes": 4 * 8192, "shape": "f32[8000]", "op_name": "gather"}


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize(("function", "shapes"), [
    (lambda a, b: jnp.tanh(a @ b).sum(0), [(64, 96), (96, 32)]),
    (conv, [(4, 16, 16, 8), (3, 3, 8, 24)]),
    (jax.grad(lambda x, w: conv(x, w).sum()), [(4, 16, 16, 8), (3, 3, 8, 24)])])
def test_counts_agree_with_xlas(function, shapes):
    compiled = jax.jit(function).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    costs, found = compiled.cost_analysis(), costing.costs(hlo.parse(compiled.as_text()))
    np.testing.assert_allclose(sum(c.counted for c in found), costs["bytes accessed"], rtol=0.02)
    np.testing.assert_allclose(sum(c.flops for c in found), costs["flops"], rtol=0.02)


@pytest.mark.parametrize("rounds", [1, 12])
def test_rounds_of_a_loop_count(rounds):
    """XLA's analysis takes the body of a loop once, whatever its length: what `repeated` adds makes it that of the unrolled program."""
    def run(x, w, unroll):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 96), (rounds, 96, 96))]
    loop, unrolled = (jax.jit(functools.partial(run, unroll=unroll)).lower(*shapes).compile() for unroll in (1, rounds))
    operations, counted = costing.repeated(hlo.parse(loop.as_text()))
    assert loop.cost_analysis()["flops"] + operations == pytest.approx(unrolled.cost_analysis()["flops"], rel=.02)
    assert (counted > 0) == (rounds > 1)


def test_of_what_is_sliced_the_slice_moves():
    """A loop over stacked arrays reads a layer of them a round and writes one, whatever the depth; XLA counts its body so too."""
    def run(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)
    moved = []
    for depth in (4, 32):
        compiled = jax.jit(run).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 96), (depth, 96, 96)))).compile()
        program = hlo.parse(compiled.as_text())
        moved.append(sum(c.counted for c in costing.costs(program)) / depth)
    assert moved[1] == pytest.approx(moved[0], rel=.25) and moved[1] < 8 * 4 * (96 * 96 + 64 * 96)


# A TPU's fusion that slices a layer in a fusion of its own, and goes on with a collective: eleven parameters, so that the second's number begins as the last's does.
BESIDE = """
%layer (w: f32[24,1024,1024], i: s32[]) -> f32[1024,1024] {
  %w = f32[24,1024,1024]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,1024,1024]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,1024,1024}
  ROOT %b = f32[1024,1024]{1,0} bitcast(%one)
}

%beside (p: f32[64,1024]) -> (f32[64,1024], f32[8,1024], f32[32,1024], f32[32,1024]) {
  %p10 = s32[] parameter(10)
  %p9 = f32[24,1024,1024]{2,1,0} parameter(9)
  %w = f32[1024,1024]{1,0} fusion(%p9, %p10), kind=kLoop, calls=%layer
  %p8 = f32[64,1024]{1,0} parameter(8)
  %y = f32[64,1024]{1,0} convolution(%p8, %w), dim_labels=bf_io->bf
  %p0 = f32[8,1024]{1,0} parameter(0)
  %p1 = f32[32,1024]{1,0} parameter(1)
  %gathered = f32[32,1024]{1,0} all-gather(%p0), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t = (f32[64,1024]{1,0}, f32[8,1024]{1,0}, f32[32,1024]{1,0}, f32[32,1024]{1,0}) tuple(%y, %p0, %p1, %gathered)
}

ENTRY %main (a: f32[8,1024], b: f32[32,1024], x: f32[64,1024], w: f32[24,1024,1024], i: s32[]) -> f32[64,1024] {
  %a = f32[8,1024]{1,0} parameter(0)
  %b = f32[32,1024]{1,0} parameter(1)
  %x = f32[64,1024]{1,0} parameter(2)
  %w = f32[24,1024,1024]{2,1,0} parameter(3)
  %i = s32[] parameter(4)
  %f = (f32[64,1024]{1,0}, f32[8,1024]{1,0}, f32[32,1024]{1,0}, f32[32,1024]{1,0}) fusion(%a, %b, %i, %i, %i, /*index=5*/%i, %i, %i, %x, %w, /*index=10*/%i), calls=%beside
  ROOT %y = f32[64,1024]{1,0} get-tuple-element(%f), index=0
}
"""


def test_what_passes_through_a_fusion_moves_nothing_and_of_stacked_weights_a_layer():
    cost, = costing.costs(hlo.parse(BESIDE))
    numbers = 6 * 4                                                                  # parameters that nothing inside reads count whole, and so do numbers
    assert cost.hbm == 4 * (64 * 1024 + 64 * 1024 + 1024 * 1024) + numbers + 4
    assert cost.flops == 2 * 64 * 1024 * 1024


@pytest.mark.parametrize(("window", "shapes", "operations"), [
    # a product whose columns are those of 16 heads
    ("size=1x16 pad=0_0x15_15 rhs_reversal=0x1", ("16,197,1,1024", "1,16,64,1024", "16,197,16,64"), 2 * 16 * 197 * 16 * 64 * 1024),
    ("size=3x3 pad=1_1x1_1", ("2,8,8,4", "3,3,5,4", "2,8,8,5"), 2 * 2 * 5 * 4 * (3 * 8 - 2) ** 2),
    ("size=3x3 stride=2x2 pad=0_1x0_1", ("2,8,8,4", "3,3,5,4", "2,4,4,5"), 2 * 2 * 5 * 4 * (3 * 4 - 1) ** 2),
    ("size=2x1 rhs_dilate=3x1", ("2,8,1,4", "2,1,5,4", "2,5,1,5"), 2 * 2 * 5 * 4 * 2 * 5),
    ("size=3x1 pad=2_2x0_0 lhs_dilate=2x1", ("2,4,1,4", "3,1,5,4", "2,9,1,5"), 2 * 2 * 5 * 4 * 3 * 4)])
def test_of_a_convolution_what_reaches_padding_costs_nothing(window, shapes, operations):
    left, kernel, out = (f"f32[{shape}]{{3,2,1,0}}" for shape in shapes)
    text = f"""
ENTRY %main (x: {left}, w: {kernel}) -> {out} {{
  %x = {left} parameter(0)
  %w = {kernel} parameter(1)
  ROOT %y = {out} convolution(%x, %w), window={{{window}}}, dim_labels=b01f_01oi->b01f
}}
"""
    assert costing.costs(hlo.parse(text))[0].flops == operations


def test_a_loop_of_a_tpu_says_its_length_in_its_condition():
    text = """
%condition (p: (s32[], f32[64,64])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, f32[64,64]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[64,64])) -> (s32[], f32[64,64]) {
  %p = (s32[]{:T(128)}, f32[64,64]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[64,64]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[64,64]{1,0:T(8,128)} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[]{:T(128)}, f32[64,64]{1,0:T(8,128)}) tuple(%i, %y)
}

ENTRY %main (x: (s32[], f32[64,64])) -> (s32[], f32[64,64]) {
  %x = (s32[]{:T(128)}, f32[64,64]{1,0:T(8,128)}) parameter(0)
  ROOT %while = (s32[]{:T(128)}, f32[64,64]{1,0:T(8,128)}) while(%x), condition=%condition, body=%body
}
"""
    assert costing.repeated(hlo.parse(text))[0] == 11 * (2 * 64**3 + 1)             # the product, and the comparison
    assert costing.repeated(hlo.parse(text.replace("constant(12)", "parameter(1)")))[0] == 0       # not known


def test_a_collective_in_a_loop_counts_every_round():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def run(w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))), None), jnp.ones((8, 64)), w)[0]
    compiled = jax.jit(run, in_shardings=NamedSharding(mesh, P(None, "data"))).lower(jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)).compile()
    gathers = [c for c in hlo.collectives(hlo.parse(compiled.as_text())) if c["op"] == "all-gather"]
    assert sum(c["times"] * c["bytes"] for c in gathers) == 5 * 64 * 64 * 4


def test_a_compiled_all_reduce_and_gather():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    @functools.partial(jax.jit, in_shardings=NamedSharding(mesh, P("data")), out_shardings=NamedSharding(mesh, P()))
    def f(x):
        return x.sum(0), x
    found = {c["op"]: c for c in hlo.collectives(hlo.parse(f.lower(jax.ShapeDtypeStruct((16, 128), jnp.float32)).compile().as_text()))}
    assert (found["all-reduce"]["bytes"], found["all-reduce"]["group"]) == (128 * 4, 8)
    assert (found["all-gather"]["bytes"], found["all-gather"]["group"]) == (16 * 128 * 4, 8)
