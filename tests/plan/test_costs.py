import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from batiste import nn
from batiste.plan import Costs, Pass, costs

P = jax.P


def traced(function, *args) -> Costs:
    return costs(jax.make_jaxpr(function)(*args))


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def training(model, *inputs) -> Costs:
    """The cost of a loss and its gradients, of parameters and the first input."""
    variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)

    def loss(params, first):
        return model.apply({**variables, "params": params}, first, *inputs[1:]).sum()

    return traced(jax.value_and_grad(loss, (0, 1)), variables["params"], inputs[0])


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="down")(nn.gelu(nn.Dense(32, name="up")(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(16, name="out")(nn.relu(x))


class Deep(nn.Module):
    remat: bool = False
    run: str = "scan"

    @nn.compact
    def __call__(self, x):
        return nn.Repeat(Block(), 6, name="h", remat=self.remat, run=self.run)(x)


def test_a_product_costs_two_flops_for_each_pair_of_numbers():
    assert traced(jnp.matmul, f32(3, 5), f32(5, 7)).total.flops == 2 * 3 * 5 * 7
    assert traced(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), f32(2, 3, 5), f32(2, 5, 7)).total.flops == 420


def test_an_mlp_costs_three_times_its_forward_pass_in_training():
    forward = 2 * 8 * (16 * 32 + 32 * 4)
    found = training(MLP(), f32(8, 16))
    assert found.total.flops == 3 * forward
    assert found.by_pass()[Pass.BACKWARD].flops == 2 * forward
    assert found.by_path()["MLP", "up"].flops == 3 * 2 * 8 * 16 * 32


@pytest.mark.parametrize(("padding", "out"), [("SAME", 8), ("VALID", 6)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_what_its_kernel_meets(padding, out, stride):
    pixels = (-(-out // stride)) ** 2
    forward = 2 * 4 * pixels * 3 * 3 * 5 * 6
    found = training(nn.Conv(6, (3, 3), strides=(stride, stride), padding=padding), f32(4, 8, 8, 5))
    assert found.total.flops == pytest.approx(3 * forward, rel=0.01)


def test_a_grouped_convolution_costs_a_part():
    forward = 2 * 4 * 64 * 9 * 2 * 6
    found = training(nn.Conv(6, (3, 3), feature_group_count=2), f32(4, 8, 8, 4))
    assert found.total.flops == pytest.approx(3 * forward, rel=0.01)


def test_attention_costs_its_projections_and_its_weights():
    batch, length, features, heads, depth = 2, 16, 32, 4, 8
    layer = nn.GroupedQueryAttention(num_heads=heads, num_kv_heads=2, head_dim=depth)
    projections = 2 * batch * length * features * depth * (heads + 2 + 2 + heads)
    weights = 2 * 2 * batch * heads * length * length * depth
    assert training(layer, f32(batch, length, features)).total.flops == 3 * (projections + weights)


@pytest.mark.parametrize("run", ["scan", "loop"])
def test_a_loop_over_layers_counts_as_often_as_it_runs(run):
    found = training(Deep(run=run), f32(8, 16))
    assert found.total.flops == 3 * 6 * 2 * 8 * 16 * 16
    assert found.unknown_loops == ()
    assert run == "loop" or found.times["Deep", "h_0", "out"] == 6


def test_what_is_computed_again_is_counted_apart():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(16, name="b")(nn.relu(nn.Dense(16, name="a")(x)))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Repeat(Two(), 6, name="h", remat=True)(x)
            return x * x

    found = training(Model(), f32(8, 16))
    one = 2 * 8 * 16 * 16
    assert found.by_pass()[Pass.FORWARD].flops == 6 * 2 * one
    assert found.by_pass()[Pass.RECOMPUTED].flops == 6 * one  # the second product is not asked for
    assert found.by_pass()[Pass.BACKWARD].flops == 6 * 4 * one


def test_what_nothing_needs_is_not_counted():
    assert traced(lambda x: (x @ x, x)[1], f32(4, 4)).total.flops == 0


def test_loops_and_branches_of_jax():
    x = f32(4, 4)
    product = 2 * 4**3
    assert traced(lambda x: jax.lax.fori_loop(0, 5, lambda _, y: y @ y, x), x).total.flops == 5 * product

    def counted(x):
        return jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + 2, c[1] @ c[1]), (0, x))

    assert traced(counted, x).total.flops == 5 * product

    def unknown(x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ y, x)

    assert traced(unknown, x).total.flops == product
    assert traced(unknown, x).unknown_loops == ((),)
    found = traced(lambda x: jax.lax.cond(x.sum() > 0, lambda y: y @ y @ y, lambda y: y, x), x)
    assert found.total.flops == 2 * product


def test_a_custom_derivative_is_walked_into():
    @jax.custom_vjp
    def double(x):
        return x @ x

    double.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x @ x,))
    assert traced(double, f32(4, 4)).total.flops == 128
    assert traced(jax.value_and_grad(lambda x: double(x).sum()), f32(4, 4)).total.flops == 3 * 128


def test_a_mapped_program_counts_on_every_device():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def body(x, w):
        return jax.lax.psum((x @ w).sum(0), "data")

    mapped = jax.shard_map(body, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    program = jax.make_jaxpr(mapped)(f32(8, 4), f32(4, 16))
    found = costs(program, {"data": 4}, [(("data",), ()), ((), ())])
    assert found.total.flops == 2 * 8 * 4 * 16
    assert found.total.device_flops == 2 * 2 * 4 * 16
    (sent,) = found.collectives
    assert (sent.kind, sent.axes, sent.count) == ("all-reduce", ("data",), 1)
    assert sent.bytes == 2 * 16 * 4 * 3 / 4


def test_values_take_memory_while_they_are_read():
    def chain(x, w):
        for _ in range(5):
            x = x @ w
        return x.sum()

    one = 8 * 8 * 4
    forward = traced(chain, f32(8, 8), f32(8, 8))
    assert forward.peak_bytes == 2 * one
    backward = traced(jax.grad(chain, (0, 1)), f32(8, 8), f32(8, 8))
    assert backward.peak_bytes >= 5 * one


def test_what_is_fused_takes_no_memory():
    found = traced(lambda x: jnp.tanh(jnp.exp(x) + 1.0).sum(), f32(64, 64))
    assert found.peak_bytes == 4


def test_fewer_bytes_live_with_remat():
    class Wide(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(16)(nn.relu(nn.Dense(512)(x)))

    def peak(remat):
        return training(nn.Repeat(Wide(), 8, remat=remat), f32(512, 16)).peak_bytes

    assert peak(remat=True) < 0.5 * peak(remat=False)


MESH = {"data": 4, "model": 2}


def test_a_batch_in_parts_needs_one_sum_of_gradients():
    def loss(w, x):
        return jnp.square(x @ w).sum()

    program = jax.make_jaxpr(jax.grad(loss))(f32(16, 32), f32(8, 16))
    found = costs(program, MESH, [((), ()), (("data",), ())], [((), ())], [True, False])
    assert [(each.kind, each.axes) for each in found.collectives] == [("all-reduce", ("data",))]
    assert found.collectives[0].bytes == 2 * 16 * 32 * 4 * 3 / 4
    assert found.total.device_flops == found.total.flops / 4


def test_parameters_in_parts_are_gathered_and_their_gradients_scattered():
    def loss(w, x):
        return jnp.square(x @ w).sum()

    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))(f32(16, 32), f32(8, 16))
    cut = (("data",), ())
    found = costs(program, MESH, [cut, cut], [cut, cut], [True, False])
    kinds = {each.kind: each for each in found.collectives}
    size = 16 * 32 * 4 * 3 / 4
    assert kinds["all-gather"].count == 2  # forwards, and for the gradient of the input
    assert kinds["all-gather"].bytes == 2 * size
    assert kinds["reduce-scatter"].bytes == size
    assert set(kinds) == {"all-gather", "reduce-scatter"}
    assert found.specs == (cut, cut)


def test_columns_then_rows_need_one_sum_forwards():
    def mlp(up, down, x):
        return jax.nn.relu(x @ up) @ down

    program = jax.make_jaxpr(mlp)(f32(16, 32), f32(32, 16), f32(8, 16))
    specs = [((), ("model",)), (("model",), ()), (("data",), ())]
    found = costs(program, MESH, specs, None, [True, True, False])
    (sent,) = found.collectives
    assert (sent.kind, sent.axes, sent.count) == ("all-reduce", ("model",), 1)
    assert sent.bytes == 2 * (2 * 16 * 4) / 2
    assert found.specs == ((("data",), ()),)
