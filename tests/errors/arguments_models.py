"""The rows of ``batiste.module``, ``lift``, ``shard`` and ``diagnose``: models as they are run."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from batiste import diagnose, module, nn, shard, view
from tests.errors.domains import (
    FLAG,
    FUNCTION_REQUIRED,
    JAX,
    OUTSIDE,
    TREE,
    Anything,
    Domain,
    Row,
    choice,
    integers_of,
    open_to,
)

KEY = jax.random.key(0)
BATCH = jnp.asarray(np.ones((2, 4), np.float32))
MATRIX = np.ones((2, 3))
MODEL = nn.Dense(3)
VARIABLES = {"params": {"kernel": np.ones((4, 3), np.float32), "bias": np.zeros(3, np.float32)}}

NO_RNGS = ("key", 1.5, MATRIX, Anything(), {"params": "key"}, {"params": 1.5}, {3: KEY}, ["key"])
RNGS = Domain((*NO_RNGS, {"parms": KEY}))
RNGS_OR_NONE = Domain(NO_RNGS)
TREE_OF_ARRAYS = Domain((3, None, "params", MATRIX, Anything(), [1], {3: {}}, {"parms": {}}, len, MODEL))
CALLS = Domain((3, True, "", "encode", [], [3], [()], [(3,)], [("nothing",)], ("__call__", MATRIX), {}, Anything()))
METHOD = Domain(("nothing", "", 3, True, Anything(), {}, MATRIX))
MUTABLE = Domain((3, 1.5, None, Anything(), [3], [None], MATRIX, b"params"))
CAPTURE = Domain((3, "yes", Anything(), MATRIX))
SCHEME = choice("linen", "split")
MODEL_INPUTS = open_to("those of the model's method")
MODULE = Domain((3, None, "dense", nn.Dense, MATRIX, {}, Anything()))
NAME = Domain((3, 1.5, True, None, "", Anything(), MATRIX, b"w"))
INITIALIZER = Domain((3, "zeros", MATRIX, {}, None))


class Body(nn.Module):
    """Calls a method of its own with the arguments that a row varies."""

    call: object

    @nn.compact
    def __call__(self, x):
        return self.call(self, x)


def within(method, **usual):
    """Return a function that calls a method of a module that is being initialised."""

    def run(**given):
        arguments = {**usual, **given}
        positional = [arguments.pop(name) for name in ("col", "name", "init_fn", "value") if name in arguments]
        extra = arguments.pop("init_args", None)
        more = () if extra is None else (extra,)
        return jax.eval_shape(
            Body(lambda self, x: (getattr(self, method)(*positional, *more, **arguments), x)[1]).init_with_output,
            KEY,
            BATCH,
        )

    return run


def zeros(*shape):
    """Return an array of zeros."""
    return jnp.zeros(shape)


SCOPE_ROWS = {
    "Module.param": Row(
        within("param", name="w", init_fn=lambda key, *shape: jnp.zeros(shape)),
        {},
        {"name": NAME, "init_fn": INITIALIZER, "init_args": OUTSIDE, "unbox": FLAG, "init_kwargs": OUTSIDE},
    ),
    "Module.variable": Row(
        within("variable", col="stats", name="w", init_fn=zeros),
        {},
        {
            "col": NAME,
            "name": NAME,
            "init_fn": INITIALIZER,
            "init_args": OUTSIDE,
            "unbox": FLAG,
            "init_kwargs": OUTSIDE,
        },
    ),
    "Module.sow": Row(
        within("sow", col="seen", name="w", value=BATCH),
        {},
        {"col": NAME, "name": NAME, "value": TREE, "reduce_fn": FUNCTION_REQUIRED, "init_fn": FUNCTION_REQUIRED},
    ),
    "Module.perturb": Row(
        within("perturb", name="w", value=BATCH), {}, {"name": NAME, "value": TREE, "collection": NAME}
    ),
    "Module.make_rng": Row(within("make_rng", name="params"), {}, {"name": NAME}),
    "Module.has_rng": Row(within("has_rng", name="params"), {}, {"name": NAME}),
    "Module.has_variable": Row(within("has_variable", col="params", name="w"), {}, {"col": NAME, "name": NAME}),
    "Module.get_variable": Row(
        within("get_variable", col="params", name="w"), {}, {"col": NAME, "name": NAME, "default": OUTSIDE}
    ),
    "Module.put_variable": Row(
        within("put_variable", col="stats", name="w", value=BATCH), {}, {"col": NAME, "name": NAME, "value": TREE}
    ),
    "Module.is_mutable_collection": Row(within("is_mutable_collection", col="params"), {}, {"col": NAME}),
}


def run_by(method):
    """Return a function that initialises a model by one of its methods."""
    return lambda rngs=KEY, args=BATCH, **given: getattr(MODEL, method)(rngs, args, **given)


RUNS = {
    "rngs": RNGS,
    "args": MODEL_INPUTS,
    "kwargs": MODEL_INPUTS,
    "method": METHOD,
    "mutable": MUTABLE,
    "capture_intermediates": CAPTURE,
    "key_scheme": SCHEME,
}


def part(*names):
    """Return some of the domains of the methods that run a model."""
    return {name: RUNS[name] for name in names}


MODULE_ROWS = {
    "Module.init": Row(run_by("init"), {}, {**RUNS, "calls": CALLS}),
    "Module.init_with_output": Row(run_by("init_with_output"), {}, RUNS),
    "Module.lazy_init": Row(run_by("lazy_init"), {}, part("rngs", "args", "method", "mutable", "kwargs")),
    "Module.apply": Row(
        lambda variables=VARIABLES, args=BATCH, **given: MODEL.apply(variables, args, **given),
        {},
        {
            "variables": TREE_OF_ARRAYS,
            "args": MODEL_INPUTS,
            "rngs": RNGS_OR_NONE,
            **part("method", "mutable", "capture_intermediates", "key_scheme", "kwargs"),
        },
    ),
    "Module.bind": Row(
        lambda variables=VARIABLES, **given: MODEL.bind(variables, **given)(BATCH),
        {},
        {"variables": TREE_OF_ARRAYS, "rngs": RNGS_OR_NONE, **part("mutable", "key_scheme")},
    ),
    "Module.clone": Row(
        MODEL.clone,
        {},
        {
            "parent": Domain((3, "dense", MATRIX, Anything())),
            "updates": open_to("fields; an unexpected one is UnexpectedFieldError"),
            "_deep_clone": OUTSIDE,
            "_reset_names": OUTSIDE,
        },
    ),
    "Module.copy": Row(
        lambda **given: jax.eval_shape(
            Body(lambda self, x: MODEL.copy(**{"parent": self, **given})(x)).init_with_output, KEY, BATCH
        ),
        {},
        {
            "parent": Domain((3, "dense", MATRIX, Anything())),
            "name": Domain((3, 1.5, True, "", Anything(), MATRIX)),
            "updates": open_to("fields; an unexpected one is UnexpectedFieldError"),
        },
    ),
    "Module.tabulate": Row(
        lambda rngs=KEY, args=BATCH, **given: MODEL.tabulate(rngs, args, **given),
        {"depth": 1},
        {
            **part("rngs", "args", "mutable", "kwargs"),
            "depth": Domain((1.5, True, "1", -1, MATRIX, Anything()), integers_of),
            "show_repeated": FLAG,
            **dict.fromkeys(("console_kwargs", "table_kwargs", "column_kwargs"), Domain((3, "wide", [1], MATRIX))),
            **dict.fromkeys(("compute_flops", "compute_vjp_flops"), FLAG),
        },
    ),
    "Module.module_paths": Row(
        lambda rngs=KEY, args=BATCH, **given: MODEL.module_paths(rngs, args, **given),
        {},
        {**part("rngs", "args", "mutable", "kwargs"), "show_repeated": FLAG},
    ),
    "init": Row(
        lambda fn=lambda one, x: one(x), module=MODEL, **given: nn.init(fn, module, **given)(KEY, BATCH),
        {},
        {"fn": FUNCTION_REQUIRED, "module": MODULE, **part("mutable", "capture_intermediates")},
    ),
    "init_with_output": Row(
        lambda fn=lambda one, x: one(x), module=MODEL, **given: nn.init_with_output(fn, module, **given)(KEY, BATCH),
        {},
        {"fn": FUNCTION_REQUIRED, "module": MODULE, **part("mutable", "capture_intermediates")},
    ),
    "apply": Row(
        lambda fn=lambda one, x: one(x), module=MODEL, **given: nn.apply(fn, module, **given)(VARIABLES, BATCH),
        {},
        {"fn": FUNCTION_REQUIRED, "module": MODULE, **part("mutable", "capture_intermediates")},
    ),
    "tabulate": Row(
        lambda module=MODEL, rngs=KEY, **given: nn.tabulate(module, rngs, **given)(BATCH),
        {},
        {
            "module": MODULE,
            **part("rngs", "mutable"),
            "depth": Domain((1.5, True, "1", -1, MATRIX, Anything())),
            "show_repeated": FLAG,
            **dict.fromkeys(("console_kwargs", "table_kwargs", "column_kwargs"), Domain((3, "wide", [1], MATRIX))),
            **dict.fromkeys(("compute_flops", "compute_vjp_flops"), FLAG),
            "kwargs": MODEL_INPUTS,
        },
    ),
    "merge_param": Row(
        lambda name="flag", a=True, b=None: nn.merge_param(name, a, b),
        {},
        {"name": OUTSIDE, "a": Domain((None,)), "b": Domain((True,))},
    ),
    "compact": Row(nn.compact, {"function": lambda self: 0}, {"function": FUNCTION_REQUIRED}),
    "nowrap": Row(nn.nowrap, {"function": lambda self: 0}, {"function": FUNCTION_REQUIRED}),
    "compact_name_scope": Row(module.compact_name_scope, {"function": lambda self: 0}, {"function": FUNCTION_REQUIRED}),
    "intercept_methods": Row(
        lambda interceptor: nn.intercept_methods(interceptor).__enter__(),
        {"interceptor": lambda run, args, kwargs, context: run(*args, **kwargs)},
        {"interceptor": FUNCTION_REQUIRED},
    ),
    "share_scope": Row(
        lambda module=None, other=None: within_setup(module, other),
        {},
        {"module": Domain((3, "dense", nn.Dense, MATRIX)), "other": Domain((3, "dense", nn.Dense, MATRIX))},
    ),
}


def within_setup(one, other):
    """Share the scope of a module and one within it."""

    class Outer(nn.Module):
        def setup(self):
            self.inner = nn.Dense(3)
            nn.share_scope(self if one is None else one, self.inner if other is None else other)

        def __call__(self, x):
            return self.inner(x)

    return jax.eval_shape(Outer().init, KEY, BATCH)


FILTER = Domain((3, 1.5, Anything(), [3], MATRIX))
NUMBERS = Domain((1.5, "x", Anything(), MATRIX, 17))
STATIC = Domain((1.5, "x", Anything(), (1.5,)))
TARGET = Domain((3, None, "Dense", MATRIX, {}, Anything()))
METHODS = Domain((3, Anything(), ["nothing"], "nothing", {"nothing": {}}))
LIFTED = {"variables": FILTER, "rngs": FILTER, "methods": METHODS, "keep_name": FLAG}


def lifted(transform, **usual):
    """Return a function that runs a layer under a transform of classes."""

    def run(target=nn.Dense, **given):
        kind = transform(target, **{**usual, **given})
        return jax.eval_shape(kind(4).init, KEY, BATCH)

    return run


def called(transform, *arguments, names):
    """Return a function that calls a transform within a module."""

    def run(**given):
        positional = [given.pop(name, usual) for name, usual in zip(names, arguments, strict=True)]
        return jax.eval_shape(
            Body(
                lambda self, x: transform(*(self_of(one, inner_of(self)) for one in positional), **given)
            ).init_with_output,
            KEY,
            BATCH,
        )

    def self_of(value, layer):
        return layer if value is MODEL else value

    def inner_of(self):
        return MODEL.clone(parent=self)

    return run


def layer_of(x):
    """Return a function of a module."""
    return lambda layer, y: layer(y)


FIRST = lambda layer, y: layer(y)  # noqa: E731 - a branch, whose name is nothing
LOSS = lambda layer, y: layer(y).sum()  # noqa: E731
DIFFERENTIATED = {
    "variables": FILTER,
    "rngs": FILTER,
    "has_aux": open_to("as jax.grad has it"),
    "reduce_axes": open_to("as Linen has it: not used by JAX any more"),
}
BRANCH = Domain((3, "dense", None, MATRIX))


def looped(mdl=MODEL, **given):
    """Run a loop within a module."""
    usual = {
        "cond_fn": lambda layer, c: c[1] < 2,
        "body_fn": lambda layer, c: (layer(c[0]) @ jnp.ones((3, 4)), c[1] + 1),
        "init": (BATCH, 0),
    }
    arguments = {**usual, **given}
    order = [arguments.pop(name) for name in ("cond_fn", "body_fn")]
    init = arguments.pop("init")

    def body(self, x):
        layer = MODEL.clone(parent=self) if mdl is MODEL else mdl
        if mdl is MODEL:
            layer(x)
        return nn.while_loop(*order, layer, init, **arguments)

    return jax.eval_shape(Body(body).init_with_output, KEY, BATCH)


def customised(**given):
    """Differentiate a layer by a rule of its own."""
    usual = {
        "fn": lambda layer, x: layer(x),
        "forward_fn": lambda layer, x: nn.vjp(lambda one, y: one(y), layer, x),
        "backward_fn": lambda back, out: back(out),
    }
    arguments = {**usual, **given}
    order = [arguments.pop(name) for name in ("fn", "forward_fn", "backward_fn")]
    run = lambda self, x: nn.custom_vjp(*order, **arguments)(MODEL.clone(parent=self), x)  # noqa: E731
    variables = jax.eval_shape(Body(run).init, KEY, BATCH)
    return jax.eval_shape(jax.grad(lambda v: Body(run).apply(v, BATCH).sum()), variables)


LIFT_ROWS = {
    "checkpoint": Row(
        lifted(nn.remat),
        {},
        {
            "target": TARGET,
            **LIFTED,
            "concrete": open_to("True is UnsupportedOptionError, as JAX refuses it"),
            "prevent_cse": FLAG,
            "static_argnums": STATIC,
            "static_argnames": Domain((3, 1.5, [3])),
            "policy": Domain((3, "dots_saveable", MATRIX, {})),
        },
    ),
    "jit": Row(
        lifted(nn.jit),
        {},
        {
            "target": TARGET,
            **LIFTED,
            "static_argnums": STATIC,
            "static_argnames": Domain((3, 1.5, [3])),
            "donate_argnums": STATIC,
            "device": JAX,
            "backend": JAX,
        },
    ),
    "fold_rngs": Row(
        lifted(nn.fold_rngs), {}, {"target": TARGET, "variables": FILTER, "rngs": FILTER, "keep_name": FLAG}
    ),
    "named_call": Row(nn.named_call, {"class_fn": nn.Dense}, {"class_fn": TARGET, "force": FLAG}),
    "add_metadata_axis": Row(
        lifted(nn.add_metadata_axis, variable_axes={"params": 0}),
        {},
        {
            "target": TARGET,
            "variable_axes": Domain((3, "params", [1], {"params": "x"}, {3: 0}, {"params": 1.5})),
            "metadata_params": Domain((3, "axis", MATRIX)),
            "methods": METHODS,
            "keep_name": FLAG,
        },
    ),
    "map_variables": Row(
        lifted(nn.map_variables, mapped_collections="params", init=True),
        {},
        {
            "target": TARGET,
            "mapped_collections": FILTER,
            "trans_in_fn": FUNCTION_REQUIRED,
            "trans_out_fn": FUNCTION_REQUIRED,
            "init": FLAG,
            "mutable": FLAG,
            **LIFTED,
        },
    ),
    "remat_scan": Row(
        lambda target=nn.Dense, **given: jax.eval_shape(
            nn.remat_scan(target, **{"lengths": (2, 2), **given})(4).init, KEY, BATCH
        ),
        {},
        {
            "target": TARGET,
            "lengths": Domain((1.5, "2", (2, 1.5), (2, "2"), (2, -1), (True, 2), MATRIX)),
            "policy": Domain((3, "dots_saveable", MATRIX, {})),
            "variable_broadcast": FILTER,
            "variable_carry": FILTER,
            "variable_axes": Domain((3, "params", [1], {"params": "x"}, {"params": 1.5})),
            "split_rngs": Domain((3, "params", [1], {"params": "x"}, {"params": 3})),
            "metadata_params": Domain((3, "axis", MATRIX, [{}])),
            "keep_name": FLAG,
        },
    ),
    **{
        name: Row(
            called(getattr(nn, name), LOSS, MODEL, BATCH, names=("fn", "mdl", "primals")),
            {},
            {"fn": FUNCTION_REQUIRED, "mdl": Domain((3, "dense", None, MATRIX)), "primals": OUTSIDE, **DIFFERENTIATED},
        )
        for name in ("grad", "value_and_grad")
    },
    "vjp": Row(
        called(lambda *a, **k: nn.vjp(*a, **k)[0], FIRST, MODEL, BATCH, names=("fn", "mdl", "primals")),
        {},
        {
            "fn": FUNCTION_REQUIRED,
            "mdl": Domain((3, "dense", None, MATRIX)),
            "primals": OUTSIDE,
            "vjp_variables": FILTER,
            "multi_scope": open_to("as Linen has it: gradients by module, or of the one"),
            **DIFFERENTIATED,
        },
    ),
    "jvp": Row(
        called(
            nn.jvp,
            FIRST,
            MODEL,
            (BATCH,),
            (BATCH,),
            {},
            names=("fn", "mdl", "primals", "tangents", "variable_tangents"),
        ),
        {},
        {
            "fn": FUNCTION_REQUIRED,
            "mdl": Domain((3, "dense", None, MATRIX)),
            "primals": Domain((3, "x", BATCH)),
            "tangents": Domain((3, "x", BATCH, ())),
            "variable_tangents": Domain((3, "x", MATRIX, {"parms": {}})),
            "variables": FILTER,
            "rngs": FILTER,
        },
    ),
    "cond": Row(
        called(nn.cond, True, FIRST, FIRST, MODEL, BATCH, names=("pred", "true_fun", "false_fun", "mdl", "operands")),
        {},
        {
            "pred": JAX,
            "true_fun": BRANCH,
            "false_fun": BRANCH,
            "mdl": Domain((3, "dense", None, MATRIX)),
            "operands": OUTSIDE,
            "variables": FILTER,
            "rngs": FILTER,
        },
    ),
    "switch": Row(
        called(nn.switch, 0, [FIRST, FIRST], MODEL, BATCH, names=("index", "branches", "mdl", "operands")),
        {},
        {
            "index": JAX,
            "branches": Domain((3, None, [], [3], FIRST, "branches")),
            "mdl": Domain((3, "dense", None, MATRIX)),
            "operands": OUTSIDE,
            "variables": FILTER,
            "rngs": FILTER,
        },
    ),
    "while_loop": Row(
        looped,
        {},
        {
            "cond_fn": FUNCTION_REQUIRED,
            "body_fn": FUNCTION_REQUIRED,
            "mdl": Domain((3, "dense", None, MATRIX)),
            "init": OUTSIDE,
            "carry_variables": FILTER,
            "broadcast_variables": FILTER,
            "split_rngs": Domain((3, "params", [1], {"params": "x"})),
        },
    ),
    "custom_vjp": Row(
        customised,
        {},
        {
            "fn": FUNCTION_REQUIRED,
            "forward_fn": FUNCTION_REQUIRED,
            "backward_fn": FUNCTION_REQUIRED,
            "grad_vars": FILTER,
            "nondiff_argnums": STATIC,
        },
    ),
}


MESH = Mesh(np.array(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
PARAMS = {"params": {"body": {"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3, np.float32)}}}
NAMED = {"w": nn.Partitioned(jnp.ones((2, 3)), ("data", None))}
LOGICAL = {"w": nn.LogicallyPartitioned(jnp.ones((2, 3)), ("batch", None))}
NO_MESH = Domain((3, "data", Anything(), MATRIX, {"data": 1}))
NO_MESH_AT_ALL = Domain((*NO_MESH.wrong, None))
BESIDE = open_to("kept beside the names, without effect, as its docstring says")
RULES = Domain(
    (
        3,
        "batch",
        True,
        Anything(),
        [3],
        [("batch",)],
        [("batch", "data", 3)],
        [(3, "data")],
        [("batch", 3)],
        {"batch": 3},
    )
)
PATH_RULES = Domain(
    (3, "**", [("**", jax.P())], {"**": "data"}, {3: jax.P()}, {"nowhere": jax.P()}, {"**/bias": jax.P()})
)
SPEC = Domain((3, "data", True, ("data",), Anything()))
PLACED = {"default": SPEC, "unmatched": choice("error", "default"), "indivisible": choice("error", "replicate")}
NAMES = Domain((3, "data", Anything(), (3,), (1.5, None), [None, {}]))
RULE = {"rules": [("batch", "data")]}
FALLBACK = Domain(("ERROR", "nothing", 3, True, Anything()))


def keeping(rules):
    """Set rules, and put back those that were there."""
    old = shard.get_logical_axis_rules()
    try:
        shard.set_logical_axis_rules(rules)
    finally:
        shard.set_logical_axis_rules(old)


def initialised(model=MODEL, mesh=MESH, rules=None, rngs=KEY, inputs=BATCH, **given):
    """Make variables on a mesh."""
    return shard.init(model, mesh, {"**": jax.P()} if rules is None else rules, rngs, inputs, **given)


SHARD_ROWS = {
    "specs": Row(
        shard.specs,
        {"tree": PARAMS, "rules": {"**": jax.P()}},
        {"tree": TREE, "rules": PATH_RULES, "mesh": NO_MESH, **PLACED},
    ),
    "shardings": Row(
        shard.shardings,
        {"tree": PARAMS, "rules": {"**": jax.P()}, "mesh": MESH},
        {"tree": TREE, "rules": PATH_RULES, "mesh": NO_MESH_AT_ALL, **PLACED},
    ),
    "init": Row(
        initialised,
        {},
        {
            "model": MODULE,
            "mesh": NO_MESH_AT_ALL,
            "rules": PATH_RULES,
            "rngs": RNGS,
            "inputs": MODEL_INPUTS,
            "options": open_to("those of init"),
            **PLACED,
        },
    ),
    "get_partition_spec": Row(shard.get_partition_spec, {"tree": NAMED}, {"tree": TREE}),
    "get_sharding": Row(shard.get_sharding, {"tree": NAMED, "mesh": MESH}, {"tree": TREE, "mesh": NO_MESH_AT_ALL}),
    "logical_axis_rules": Row(lambda rules: shard.logical_axis_rules(rules).__enter__(), RULE, {"rules": RULES}),
    "set_logical_axis_rules": Row(keeping, RULE, {"rules": RULES}),
    "logical_to_mesh": Row(
        shard.logical_to_mesh,
        {"tree": {"w": PartitionSpec("batch")}, **RULE},
        {"tree": TREE, "rules": RULES, "fallback": FALLBACK},
    ),
    "logical_to_mesh_axes": Row(
        shard.logical_to_mesh_axes,
        {"array_dim_names": ("batch", None), **RULE},
        {"array_dim_names": NAMES, "rules": RULES, "fallback": FALLBACK},
    ),
    "logical_to_mesh_sharding": Row(
        shard.logical_to_mesh_sharding,
        {"tree": {"w": PartitionSpec("batch")}, "mesh": MESH, **RULE},
        {"tree": TREE, "mesh": NO_MESH_AT_ALL, "rules": RULES, "fallback": FALLBACK},
    ),
    "with_logical_constraint": Row(
        shard.with_logical_constraint,
        {"x": BATCH, "logical_axis_resources": ("batch", None), "mesh": MESH, **RULE},
        {"x": TREE, "logical_axis_resources": NAMES, "rules": RULES, "mesh": NO_MESH, "fallback": FALLBACK},
    ),
    "with_partitioning": Row(
        lambda **given: shard.with_partitioning(**given)(KEY, (4, 3)).get_partition_spec(),
        {"fn": nn.initializers.normal(), "names": ("data", None)},
        {"fn": FUNCTION_REQUIRED, "names": NAMES, "mesh": BESIDE},
    ),
    "with_logical_partitioning": Row(
        lambda **given: shard.with_logical_partitioning(**given)(KEY, (4, 3)).get_partition_spec(),
        {"fn": nn.initializers.normal(), "names": ("batch", None), **RULE},
        {"fn": FUNCTION_REQUIRED, "names": NAMES, "mesh": BESIDE, "rules": RULES},
    ),
    "Partitioned": Row(
        lambda **given: shard.Partitioned(**given).get_partition_spec(),
        {"value": BATCH, "names": ("data", None)},
        {"value": TREE, "names": NAMES, "mesh": BESIDE},
    ),
    "LogicallyPartitioned": Row(
        lambda **given: shard.LogicallyPartitioned(**given).get_partition_spec(),
        {"value": BATCH, "names": ("batch", None), **RULE},
        {"value": TREE, "names": NAMES, "mesh": BESIDE, "rules": RULES},
    ),
}


CALL = Domain((3, None, "call", MATRIX, (), ((1,),), (3, {}), ((1,), 3), Anything()))
VIEW_ROWS = {
    "model": Row(
        lambda model=MODEL, inputs=BATCH, **given: view.model(model, inputs, **given).title,
        {},
        {"model": MODULE, "inputs": MODEL_INPUTS, "rngs": RNGS_OR_NONE, "kwargs": MODEL_INPUTS},
    ),
}
DIAGNOSE_ROWS = {
    "summary": Row(
        lambda model=MODEL, inputs=BATCH, **given: diagnose.summary(model, inputs, **given),
        {},
        {"model": MODULE, "inputs": MODEL_INPUTS, "rngs": RNGS_OR_NONE, "kwargs": MODEL_INPUTS},
    ),
    "explain_retrace": Row(
        diagnose.explain_retrace,
        {"before": ((1,), {}), "after": ((2,), {})},
        {
            "before": CALL,
            "after": CALL,
            "static_argnums": STATIC,
            "static_argnames": Domain((3, 1.5, [3])),
            "function": Domain((3, "f", MATRIX)),
            "measure": FLAG,
        },
    ),
    "watch_retraces": Row(
        lambda function=jnp.sin, **given: diagnose.watch_retraces(function, **given)(1.0),
        {},
        {"function": FUNCTION_REQUIRED, "jit_options": JAX},
    ),
}
