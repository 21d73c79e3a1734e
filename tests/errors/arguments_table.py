"""The table of arguments: a row for each public callable, or the reason why it has none.

A new layer needs a line in ``LAYERS``: its usual fields and its input. The domains of its fields come from ``FIELDS``
by their names, so that a field is the same thing in every layer; what differs is said in the line.
"""

import dataclasses
import functools
import inspect
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from batiste import dtypes, nn, tree
from tests.errors import arguments_around, arguments_data, arguments_files, arguments_models
from tests.errors.domains import (
    ADVANCED,
    ARRAY,
    AXES,
    COUNT,
    COUNT_OR_NONE,
    DTYPE,
    EXTENTS,
    FLAG,
    FUNCTION,
    FUNCTION_REQUIRED,
    JAX,
    NUMBER,
    NUMBER_OR_NONE,
    OUTSIDE,
    PATH,
    PATTERN,
    POSITIVE,
    RATE,
    SIZE,
    SIZE_OR_NONE,
    SIZES,
    STEPS,
    TEXT,
    TREE,
    UNMATCHED,
    Anything,
    Domain,
    Row,
    choice,
    integers_of,
    open_to,
)

KEY = jax.random.key(0)
IMAGES = jnp.ones((2, 6, 6, 4))
SEQUENCES = jnp.ones((2, 5, 4))
BATCH = jnp.ones((2, 4))
PARAMS = {"params": {"body": {"kernel": np.ones((4, 3), np.float32), "bias": np.ones(3, np.float32)}}}
LAYERED = {"h_0": {"kernel": np.ones((4, 4))}, "h_1": {"kernel": np.ones((4, 4))}}
STACKED = {"h": {"kernel": np.ones((2, 4, 4))}}

LIFTED_AXES = open_to("axes, collections and streams: an error of the transform says which does not fit")
MASK = open_to("an array that broadcasts to the weights, or an error that names both shapes")
LIFTED = open_to("as nn.scan takes it")
RANDOM = open_to(
    "the name of a stream, a collection or a mapped axis: one that is not there is an error where it is used"
)
PADDING = Domain(("SAYM", "", 1.5, None, True, Anything(), ((1, 2, 3), 1), "1", NotImplemented))
SHAPE_MASK = open_to("an array of the kernel's shape, or KernelMaskShapeError")

FIELDS = {
    "features": SIZE, "kernel_size": EXTENTS, "strides": STEPS, "input_dilation": STEPS, "kernel_dilation": STEPS,
    "feature_group_count": COUNT, "padding": PADDING, "mask": SHAPE_MASK, "shape": SIZES, "axis": AXES,
    "batch_dims": open_to("leading axes, or BatchAxesError; a wrong kind is refused as axes are"),
    "num_embeddings": SIZE, "num_heads": COUNT, "num_kv_heads": COUNT_OR_NONE, "head_dim": COUNT_OR_NONE,
    "qkv_features": SIZE_OR_NONE, "out_features": SIZE_OR_NONE, "epsilon": POSITIVE, "momentum": RATE, "rate": RATE,
    "dropout_rate": RATE, "num_groups": COUNT, "group_size": COUNT_OR_NONE, "reduction_axes": AXES,
    "feature_axes": AXES, "broadcast_dims": AXES, "n_steps": SIZE, "negative_slope_init": NUMBER, "unroll": COUNT,
    "dtype": DTYPE, "param_dtype": DTYPE, "preferred_element_type": JAX, "precision": JAX, "e4m3_dtype": JAX,
    "e5m2_dtype": JAX, "implementation": Domain(("XLA", "gpu", "", 3, True)),
    "rotary_base": Domain((*NUMBER_OR_NONE.wrong, 0.0, -1.0)),
    "rotary_dim": SIZE_OR_NONE, "scale": NUMBER_OR_NONE, "window": COUNT_OR_NONE, "max_length": COUNT_OR_NONE,
    "einsum_str": Domain(("", "bi", 3, True, Anything(), "bi,ij->bk", "bi,ij->bb", "bij,ij->bj", "bi,ij,jk->bk")),
    "attention_fn": FUNCTION_REQUIRED, "gate_fn": FUNCTION_REQUIRED, "activation_fn": FUNCTION_REQUIRED,
    "layers": Domain((None, 3, "relu", nn.relu, nn.Dense(2), {})),
    "axis_name": RANDOM, "rng_collection": RANDOM, "collection_name": RANDOM,
    "axis_index_groups": JAX, "variable_filter": open_to("names of variables; one that is not there names none"),
}  # fmt: skip
FLAGS = (
    "use_bias", "use_scale", "use_fast_variance", "force_float32_reductions", "deterministic", "use_running_average",
    "transpose_kernel", "broadcast_dropout", "decode", "normalize_qk", "force_fp32_for_softmax", "residual",
    "reset_gate", "time_major", "return_carry", "reverse", "keep_order", "has_outputs", "out_use_bias", "causal",
    "rotary_interleaved", "error_on_non_matrix",
)  # fmt: skip
IN_PLACE_OF_JAX = (
    "promote_dtype", "dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls",
    "qkv_dot_general", "out_dot_general", "qkv_dot_general_cls", "out_dot_general_cls", "qk_attn_weights_einsum_cls",
    "attn_weights_value_einsum_cls", "merge_fn",
)  # fmt: skip


def made(kind, x, **fields):
    """Return the shapes of what a layer makes and returns."""
    keys = {"params": KEY, "dropout": KEY}
    return jax.eval_shape(kind(**fields).init_with_output, keys, x)


def stepped(kind, x, **fields):
    """Return the shapes of what a cell makes and returns, run over a sequence."""
    return jax.eval_shape(nn.RNN(kind(**fields)).init_with_output, KEY, x)


def updated(kind, x, **fields):
    """Return the shapes of what a layer makes that is told whether it keeps statistics."""
    return jax.eval_shape(lambda: kind(**fields).init(KEY, x, update_stats=True))


def domain_of(field):
    """Return the domain of a layer's field by its name."""
    if field in FLAGS:
        return FLAG
    if field in IN_PLACE_OF_JAX:
        return ADVANCED
    if field.endswith("_init") and field != "negative_slope_init":
        return FUNCTION
    return FIELDS[field]


def layer(kind, x, *, call=made, options=MappingProxyType({}), domains=MappingProxyType({}), **usual):
    """Return the row of a layer."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in ("parent", "name")]
    found = {name: domains[name] if name in domains else domain_of(name) for name in names}
    return Row(functools.partial(call, kind, x), usual, found, options)


WITH_MASKED_GROUPS = {"group_size": {"num_groups": None}}
CELL = {"features": 3}
ATTENTION = {"num_heads": 2, "qkv_features": 4, "out_features": 4, "dropout_rate": 0.5, "deterministic": True}
LAYERS = {
    "Dense": layer(nn.Dense, BATCH, features=3),
    "DenseGeneral": layer(nn.DenseGeneral, BATCH, features=(2, 3), axis=-1, domains={"features": SIZES}),
    "Einsum": layer(nn.Einsum, BATCH, shape=(4, 3), einsum_str="bi,ij->bj"),
    "Conv": layer(nn.Conv, IMAGES, features=3, kernel_size=(3, 3), strides=(1, 1), padding="SAME"),
    "ConvLocal": layer(
        nn.ConvLocal,
        IMAGES,
        features=3,
        kernel_size=(3, 3),
        domains={"conv_general_dilated": ADVANCED},
    ),
    "ConvTranspose": layer(nn.ConvTranspose, IMAGES, features=3, kernel_size=(3, 3), strides=(2, 2)),
    "Embed": layer(nn.Embed, jnp.ones((2, 3), jnp.int32), num_embeddings=5, features=3),
    "LayerNorm": layer(nn.LayerNorm, BATCH, epsilon=0.5, reduction_axes=-1, feature_axes=-1),
    "RMSNorm": layer(nn.RMSNorm, BATCH, epsilon=0.5, reduction_axes=-1, feature_axes=-1),
    "GroupNorm": layer(
        nn.GroupNorm,
        IMAGES,
        num_groups=2,
        epsilon=0.5,
        options=WITH_MASKED_GROUPS,
        domains={"reduction_axes": Domain((1.5, True, "1", 17, (0, 0), Anything()), integers_of)},
    ),
    "InstanceNorm": layer(nn.InstanceNorm, IMAGES, epsilon=0.5, feature_axes=-1),
    "BatchNorm": layer(nn.BatchNorm, BATCH, use_running_average=False, axis=-1, momentum=0.5, epsilon=0.5),
    "Dropout": layer(
        nn.Dropout,
        BATCH,
        rate=0.5,
        deterministic=False,
        broadcast_dims=(0,),
    ),
    "PReLU": layer(nn.PReLU, BATCH, negative_slope_init=0.5),
    "Sequential": layer(nn.Sequential, BATCH, layers=[nn.Dense(2)]),
    "LSTMCell": layer(nn.LSTMCell, SEQUENCES, call=stepped, **CELL),
    "OptimizedLSTMCell": layer(nn.OptimizedLSTMCell, SEQUENCES, call=stepped, **CELL),
    "SimpleCell": layer(nn.SimpleCell, SEQUENCES, call=stepped, **CELL),
    "GRUCell": layer(nn.GRUCell, SEQUENCES, call=stepped, **CELL),
    "MGUCell": layer(nn.MGUCell, SEQUENCES, call=stepped, **CELL),
    "MultiHeadDotProductAttention": layer(nn.MultiHeadDotProductAttention, SEQUENCES, **ATTENTION),
    "GroupedQueryAttention": layer(
        nn.GroupedQueryAttention,
        SEQUENCES,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        rotary_dim=4,
        scale=0.5,
        window=3,
        options={"bias_init": {"use_bias": True}},
    ),
}


def arguments(call, usual, **domains):
    """Return the row of a function."""
    return Row(call, usual, domains)


def drawn(factory):
    """Return a function of a factory's arguments that draws with what it makes."""
    return lambda **given: factory(**given)(KEY, (3, 4), jnp.float32)


def arguments_named(function):
    """Return the names of a function's arguments."""
    return list(inspect.signature(function).parameters)


def scanned(**given):
    """Return the shapes of a block that is scanned without inputs."""
    axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
    block = nn.scan(lambda module, carry, _: (module(carry), None), **axes, **given)
    return jax.eval_shape(lambda: nn.init(lambda module: block(module, BATCH, None), nn.Dense(4))(KEY))


def mapped(**given):
    """Return the shapes of a block that is mapped without inputs."""
    block = nn.vmap(lambda module: module(BATCH), variable_axes={"params": 0}, split_rngs={"params": True}, **given)
    return jax.eval_shape(lambda: nn.init(block, nn.Dense(4))(KEY))


def pooled(function):
    """Return the row of a pooling function."""
    usual = {"inputs": IMAGES, "window_shape": (2, 2), "strides": (1, 1), "padding": "VALID"}
    windows = Domain(
        (2, 1.5, "2", None, (2, 2, 2, 2), (2, 0), (2, -1), (2, 2.0), (2, True), ("2", 2), MATRIX), integers_of
    )
    steps = Domain((2, 1.5, "22", (2,), (1, 2, 3), (2, 0), (2, -1), (2, 2.0), (2, True), MATRIX), integers_of)
    pads = Domain((1, "SAYM", "", None, (1, 1), ((1, 1),), ((1, 1.5), (1, 1)), ((1, True), (1, 1))))
    domains = {"inputs": ARRAY, "window_shape": windows, "strides": steps, "padding": pads}
    if function is nn.avg_pool:
        domains["count_include_pad"] = FLAG
    return arguments(function, usual, **domains)


MATRIX = np.ones((2, 3))
SCALE = Domain((True, "1", float("nan"), float("inf"), None, Anything(), len))
NEVER_NEGATIVE = Domain((*SCALE.wrong, -1.0))
FAN_AXES_ONLY = Domain((1.5, True, "1", float("nan"), None, Anything()), integers_of)
FANS = {"in_axis": FAN_AXES_ONLY, "out_axis": FAN_AXES_ONLY, "batch_axis": FAN_AXES_ONLY, "dtype": OUTSIDE}
FAN_FACTORIES = (
    "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal",
    "lecun_uniform" )  # fmt: skip
INITIALIZERS = {
    "constant": arguments(
        drawn(nn.initializers.constant), {"value": 1.0}, value=Domain((None, "a", {}, len)), dtype=OUTSIDE
    ),
    "uniform": arguments(drawn(nn.initializers.uniform), {}, scale=SCALE, dtype=OUTSIDE),
    "normal": arguments(drawn(nn.initializers.normal), {}, stddev=NEVER_NEGATIVE, dtype=OUTSIDE),
    "truncated_normal": arguments(
        drawn(nn.initializers.truncated_normal),
        {},
        stddev=NEVER_NEGATIVE,
        dtype=OUTSIDE,
        lower=Domain((True, "1", float("nan"), None, 3.0, Anything())),
        upper=Domain((True, "1", float("nan"), None, -3.0, Anything())),
    ),
    "variance_scaling": arguments(
        drawn(nn.initializers.variance_scaling),
        {"scale": 1.0, "mode": "fan_in", "distribution": "normal"},
        scale=NEVER_NEGATIVE,
        mode=choice("fan_in"),
        distribution=choice("normal"),
        **FANS,
    ),
    "orthogonal": arguments(
        drawn(nn.initializers.orthogonal), {}, scale=SCALE, column_axis=FAN_AXES_ONLY, dtype=OUTSIDE
    ),
    "delta_orthogonal": arguments(
        lambda **given: nn.initializers.delta_orthogonal(**given)(KEY, (3, 2, 4), jnp.float32),
        {},
        scale=SCALE,
        column_axis=open_to("as orthogonal's"),
        dtype=OUTSIDE,
    ),
    **{name: arguments(drawn(getattr(nn.initializers, name)), {}, **FANS) for name in FAN_FACTORIES},
}

WITHIN = Domain(tuple(one for one in PATTERN.wrong if not isinstance(one, str) or one))  # "" is the root
QKV = jnp.ones((2, 5, 2, 4))
FUNCTIONS = {
    "dot_product_attention": arguments(
        nn.dot_product_attention,
        {"query": QKV, "key": QKV, "value": QKV, "dropout_rate": 0.5, "dropout_rng": KEY},
        query=ARRAY,
        key=ARRAY,
        value=ARRAY,
        bias=MASK,
        mask=MASK,
        broadcast_dropout=FLAG,
        dropout_rng=JAX,
        dropout_rate=RATE,
        deterministic=FLAG,
        dtype=DTYPE,
        precision=JAX,
        module=OUTSIDE,
        force_fp32_for_softmax=FLAG,
        einsum_dot_general=ADVANCED,
        qk_attn_weights_einsum=ADVANCED,
        attn_weights_value_einsum=ADVANCED,
    ),
    "dot_product_attention_weights": arguments(
        nn.dot_product_attention_weights,
        {"query": QKV, "key": QKV, "dropout_rate": 0.5, "dropout_rng": KEY},
        query=ARRAY,
        key=ARRAY,
        bias=MASK,
        mask=MASK,
        broadcast_dropout=FLAG,
        dropout_rng=JAX,
        dropout_rate=RATE,
        deterministic=FLAG,
        dtype=DTYPE,
        precision=JAX,
        module=OUTSIDE,
        force_fp32_for_softmax=FLAG,
        einsum_dot_general=ADVANCED,
        einsum=ADVANCED,
    ),
    "make_attention_mask": arguments(
        nn.make_attention_mask,
        {"query_input": MATRIX, "key_input": MATRIX, "extra_batch_dims": 1},
        query_input=ARRAY,
        key_input=ARRAY,
        pairwise_fn=FUNCTION_REQUIRED,
        extra_batch_dims=SIZE,
        dtype=JAX,
    ),
    "make_causal_mask": arguments(
        nn.make_causal_mask,
        {"x": MATRIX, "extra_batch_dims": 1},
        x=Domain((*ARRAY.wrong, 1.0)),
        extra_batch_dims=SIZE,
        dtype=JAX,
    ),
    "combine_masks": Row(
        lambda masks, **given: nn.combine_masks(masks, MATRIX, **given),
        {"masks": MATRIX},
        {"masks": Domain(tuple(one for one in ARRAY.wrong if one is not None)), "dtype": JAX},
    ),
    "rotary_angles": arguments(
        nn.rotary_angles,
        {"positions": np.arange(3), "rotary_dim": 4, "base": 10.0},
        positions=ARRAY,
        rotary_dim=Domain((*SIZE.wrong, 3), integers_of),
        base=Domain((*POSITIVE.wrong, 0.0)),
    ),
    "apply_rotary": arguments(
        nn.apply_rotary,
        {"x": QKV, "angles": jnp.ones((5, 2))},
        x=Domain((*ARRAY.wrong, 1.0)),
        angles=Domain((*ARRAY.wrong, 1.0, jnp.ones((3, 2)))),
        interleaved=FLAG,
    ),
    "flip_sequences": arguments(
        nn.flip_sequences,
        {"inputs": SEQUENCES, "seq_lengths": None, "num_batch_dims": 1, "time_major": False},
        inputs=ARRAY,
        seq_lengths=JAX,
        num_batch_dims=Domain((*SIZE.wrong, 3), integers_of),
        time_major=FLAG,
    ),
    "BatchApply": arguments(
        lambda **given: nn.BatchApply(**given)(SEQUENCES),
        {"f": jnp.sin, "num_dims": 2},
        f=FUNCTION_REQUIRED,
        num_dims=Domain((*COUNT.wrong, 7), integers_of),
    ),
    "WeightNorm": layer(
        nn.WeightNorm,
        BATCH,
        layer_instance=nn.Dense(3),
        epsilon=0.5,
        feature_axes=-1,
        domains={"layer_instance": OUTSIDE, "feature_axes": Domain((1.5, True, "1", 17, (0, 0)), integers_of)},
    ),
    "SpectralNorm": layer(
        nn.SpectralNorm,
        BATCH,
        call=updated,
        layer_instance=nn.Dense(3),
        n_steps=1,
        epsilon=0.5,
        domains={"layer_instance": OUTSIDE},
    ),
    "ConvLSTMCell": layer(nn.ConvLSTMCell, jnp.ones((2, 3, 6, 6, 4)), call=stepped, features=3, kernel_size=(3, 3)),
    "RNN": layer(
        nn.RNN,
        SEQUENCES,
        cell=nn.GRUCell(3),
        unroll=2,
        domains={
            "cell": Domain((3, None, "LSTM", nn.Dense(2))),
            "unroll": Domain(tuple(one for one in COUNT.wrong if one is not True), integers_of),
            **dict.fromkeys(("variable_axes", "variable_broadcast", "variable_carry", "split_rngs"), LIFTED),
        },
    ),
    "MoE": layer(
        nn.MoE,
        SEQUENCES,
        num_experts=3,
        hidden_features=4,
        top_k=2,
        capacity_factor=1.5,
        domains={
            "num_experts": COUNT,
            "hidden_features": COUNT,
            "top_k": Domain((*COUNT.wrong, 4), integers_of),
            "capacity_factor": Domain((*(one for one in POSITIVE.wrong if one is not None), 0.0)),
            "normalize": FLAG,
            "activation": FUNCTION_REQUIRED,
        },
    ),
    "Repeat": layer(
        nn.Repeat,
        BATCH,
        block=nn.Dense(4),
        n=2,
        unroll=1,
        domains={
            "block": Domain((3, None, "Dense", [], [3])),
            "n": COUNT_OR_NONE,
            "run": Domain(("SCAN", "loops", "", 3, True, None)),
            "in_axes": open_to("broadcast or 0 for each input after the carry, or RepeatInputError"),
            "fields": Domain((3, "use_bias", [1], MATRIX)),
            "remat": FLAG,
        },
    ),
}

TREE_ROWS = {
    "select": arguments(
        tree.select, {"tree": PARAMS, "patterns": "**"}, tree=TREE, patterns=PATTERN, unmatched=UNMATCHED
    ),
    "exclude": arguments(
        tree.exclude, {"tree": PARAMS, "patterns": "**/bias"}, tree=TREE, patterns=PATTERN, unmatched=UNMATCHED
    ),
    "partition": arguments(
        tree.partition,
        {"tree": PARAMS, "groups": {"all": "**"}},
        tree=TREE,
        unmatched=UNMATCHED,
        groups=Domain((None, 3, "**", ["**"], {"a": 3}, {"a": "nowhere"}, {"a": "**/bias"}, Anything())),
    ),
    "rename": arguments(
        tree.rename,
        {"tree": PARAMS, "rules": {"params/**": "{1}"}},
        tree=TREE,
        unmatched=UNMATCHED,
        rules=Domain((None, 3, "**", [("a", "b")], {"**": 3}, {3: "a"}, {"nowhere": "a"}, {"**": "{7}"}, Anything())),
    ),
    "map": arguments(
        tree.map,
        {"tree": PARAMS, "rules": {"**": lambda path, leaf: leaf}},
        tree=TREE,
        unmatched=UNMATCHED,
        rules=Domain((None, 3, "**", {"**": 3}, {3: len}, {"nowhere": lambda path, leaf: leaf}, Anything())),
    ),
    "cast": arguments(
        tree.cast,
        {"tree": PARAMS, "dtypes": {"**": "float16"}},
        tree=TREE,
        kinds=choice("floating", "all"),
        unmatched=UNMATCHED,
        dtypes=Domain(("flaot32", {"nowhere": "float32"}, {"**": "flaot32"}, Anything())),
    ),
    "label": arguments(
        tree.label,
        {"tree": PARAMS, "rules": {"**": "train"}},
        tree=TREE,
        default=OUTSIDE,
        unmatched=UNMATCHED,
        rules=Domain((None, 3, "**", [("**", "train")], {3: "a"}, {"nowhere": "a"}, {}, Anything())),
    ),
    "merge": Row(
        lambda **given: tree.merge({"a": 1}, {"a": 2}, **given),
        {"overwrite": "last"},
        {"trees": TREE, "overwrite": choice("error", "first", "last"), "like": TREE},
    ),
    "paths": arguments(
        tree.paths,
        {"tree": PARAMS},
        tree=TREE,
        patterns=Domain((3, Anything(), b"params", {"params": 1}, ["**", 3], "[", float("nan"))),
    ),
    "count": arguments(
        tree.count, {"tree": PARAMS}, tree=TREE, patterns=Domain((3, Anything(), {"a": 1}, ["**", 3], "["))
    ),
    "bytes": arguments(
        tree.bytes, {"tree": PARAMS}, tree=TREE, patterns=Domain((3, Anything(), {"a": 1}, ["**", 3], "["))
    ),
    "totals": arguments(
        tree.totals,
        {"tree": PARAMS, "depth": 1},
        tree=TREE,
        depth=SIZE,
        patterns=Domain((3, Anything(), {"a": 1}, ["**", 3], "[")),
    ),
    "compile_pattern": arguments(
        tree.compile_pattern, {"pattern": "**"}, pattern=Domain((3, None, b"a", ["a"], "[", "{a"))
    ),
    "get": arguments(
        tree.get,
        {"tree": PARAMS, "path": "params"},
        tree=TREE,
        path=Domain((*PATH.wrong, "PARAMS", "params/")),
        default=OUTSIDE,
    ),
    "items": arguments(tree.items, {"tree": PARAMS}, tree=TREE),
    "flatten": arguments(tree.flatten, {"tree": PARAMS}, tree=TREE),
    "unflatten": arguments(
        tree.unflatten,
        {"leaves": {"a/b": 1}},
        leaves=Domain((None, 3, "a", [1], {3: 1}, {"a": 1, "a/b": 2})),
        like=TREE,
    ),
    "split_path": arguments(tree.split_path, {"path": "a/b"}, path=PATH),
    "join_path": arguments(tree.join_path, {"parts": ("a", "b")}, parts=Domain(((3,), ("a", None), (b"a",)))),
    "stack_layers": arguments(
        tree.stack_layers,
        {"tree": LAYERED, "name": "h"},
        tree=TREE,
        name=Domain((*TEXT.wrong, "H", "g")),
        within=WITHIN,
    ),
    "unstack_layers": arguments(
        tree.unstack_layers,
        {"tree": STACKED, "name": "h", "layers": 2},
        tree=TREE,
        name=Domain((*TEXT.wrong, "H", "g")),
        within=WITHIN,
        layers=Domain((*COUNT_OR_NONE.wrong, 3), integers_of),
    ),
    "by_layer": arguments(
        lambda **given: tree.by_layer(**given)(STACKED),
        {"function": lambda apart: True, "name": "h"},
        function=FUNCTION_REQUIRED,
        name=Domain((*TEXT.wrong, "H", "g")),
        within=WITHIN,
    ),
    "diff": arguments(
        tree.diff,
        {"left": PARAMS, "right": PARAMS, "rtol": 0.5, "atol": 0.5},
        left=TREE,
        right=TREE,
        values=FLAG,
        patterns=Domain(tuple(one for one in WITHIN.wrong if one is not None)),
        rtol=POSITIVE,
        atol=POSITIVE,
    ),
    "lora_init": arguments(
        tree.lora_init,
        {"key": KEY, "params": PARAMS, "patterns": "**/kernel", "rank": 2},
        key=JAX,
        params=TREE,
        patterns=PATTERN,
        rank=COUNT,
        alpha=NUMBER_OR_NONE,
        dtype=Domain((*DTYPE.wrong, "int32")),
        inputs=Domain((1.5, True, "1", -1, 0, Anything())),
        stacked=Domain((1.5, True, "1", -1, Anything())),
    ),
}

ROWS = {
    **{f"nn.{name}": row for name, row in FUNCTIONS.items()},
    **{f"nn.{name}": row for name, row in LAYERS.items()},
    **{f"nn.initializers.{name}": row for name, row in INITIALIZERS.items()},
    **{f"tree.{name}": row for name, row in TREE_ROWS.items()},
    **{f"tree.{name}": row for name, row in arguments_data.TREE_ROWS.items()},
    **{f"struct.{name}": row for name, row in arguments_data.STRUCT_ROWS.items()},
    **{f"importers.{name}": row for name, row in arguments_data.IMPORTER_ROWS.items()},
    **{f"module.{name}": row for name, row in arguments_models.SCOPE_ROWS.items()},
    **{f"module.{name}": row for name, row in arguments_models.MODULE_ROWS.items()},
    **{f"lift.{name}": row for name, row in arguments_models.LIFT_ROWS.items()},
    **{f"shard.{name}": row for name, row in arguments_models.SHARD_ROWS.items()},
    **{f"diagnose.{name}": row for name, row in arguments_models.DIAGNOSE_ROWS.items()},
    **{f"view.{name}": row for name, row in arguments_files.VIEW_ROWS.items()},
    **{f"view.{name}": row for name, row in arguments_models.VIEW_ROWS.items()},
    **{f"checkpoint.{name}": row for name, row in arguments_files.CHECKPOINT_ROWS.items()},
    **{f"train.{name}": row for name, row in arguments_files.TRAIN_ROWS.items()},
    **{f"train.{name}": row for name, row in arguments_around.TRAIN_ROWS.items()},
    **{f"shard.{name}": row for name, row in arguments_around.SHARD_ROWS.items()},
    **{f"diagnose.{name}": row for name, row in arguments_around.DIAGNOSE_ROWS.items()},
    **{f"generation.{name}": row for name, row in arguments_around.GENERATION_ROWS.items()},
    **{f"plan.{name}": row for name, row in arguments_around.PLAN_ROWS.items()},
    "nn.avg_pool": pooled(nn.avg_pool),
    "nn.max_pool": pooled(nn.max_pool),
    "nn.min_pool": pooled(nn.min_pool),
}
ROWS.update(
    {
        "dtypes.canonicalize_dtype": Row(
            lambda args, **given: dtypes.canonicalize_dtype(args, args, **given),
            {"args": BATCH},
            {"args": JAX, "dtype": Domain((*DTYPE.wrong, "int32")), "inexact": FLAG},
        ),
        "dtypes.promote_dtype": Row(
            lambda args, **given: dtypes.promote_dtype(args, args, **given),
            {"args": BATCH},
            {"args": JAX, "dtype": Domain((*DTYPE.wrong, "int32")), "inexact": FLAG},
        ),
        "dtypes.cast": arguments(dtypes.cast, {"array": BATCH, "dtype": "float16"}, array=JAX, dtype=DTYPE),
        "dtypes.reduction_dtype": arguments(dtypes.reduction_dtype, {"dtype": "float16"}, dtype=DTYPE),
        "lift.scan": Row(
            scanned,
            {"length": 3, "unroll": 1},
            {
                **dict.fromkeys(arguments_named(nn.scan), LIFTED_AXES),
                "length": Domain((1.5, True, "1", -1, Anything()), integers_of),
                "unroll": Domain(tuple(one for one in COUNT.wrong if one is not True), integers_of),
            },
        ),
        "lift.vmap": Row(
            mapped,
            {"axis_size": 3},
            {
                **dict.fromkeys(arguments_named(nn.vmap), LIFTED_AXES),
                "axis_size": Domain((1.5, True, "1", -1, Anything()), integers_of),
            },
        ),
    }
)

INSIDE = "for the packages above it: what a user gives has been checked when it arrives here"
STATES = "a value that batiste makes and users read"
ELSEWHERE = {
    "dtypes.is_array_class": INSIDE,
    "dtypes.matched": INSIDE,
    "dtypes.square_dtype": INSIDE,
    **dict.fromkeys(
        (
            "tree.Diff",
            "tree.Difference",
            "tree.Total",
            "tree.Pattern",
            "diagnose.Difference",
            "diagnose.Retrace",
            "diagnose.Summary",
            "diagnose.SummaryRow",
            "diagnose.TraceRecord",
            "diagnose.WatchedFunction",
            "diagnose.ArrayStatistics",
            "diagnose.Capture",
            "diagnose.Captured",
            "diagnose.Draw",
            "diagnose.DtypeRow",
            "diagnose.Dtypes",
            "diagnose.Finding",
            "diagnose.Findings",
            "diagnose.Keys",
            "diagnose.ModuleRow",
            "diagnose.NonFinite",
            "diagnose.Profile",
            "diagnose.ProfileRow",
            "diagnose.Statistics",
            "diagnose.WithPolicy",
            "shard.Explanation",
            "shard.LeafPlacement",
            "train.LearningRates",
            "train.ModelCall",
            "train.Patience",
            "train.Prefetched",
            "train.Settings",
            "train.Shuffled",
            "train.Step",
            "generation.Generated",
            "plan.Chip",
            "plan.Collective",
            "plan.Compiled",
            "plan.Cost",
            "plan.Costs",
            "plan.Lint",
            "plan.Memory",
            "plan.Pass",
            "plan.Plan",
            "checkpoint.Checkpoint",
            "checkpoint.Manifest",
            "checkpoint.Record",
            "checkpoint.SaveHandle",
            "checkpoint.Saved",
            "checkpoint.Verification",
            "importers.Ambiguity",
            "importers.Report",
            "importers.Suggestion",
            "importers.Use",
            "lift.In",
            "lift.Out",
            "view.Page",
            "view.Statistics",
        ),
        STATES,
    ),
    **dict.fromkeys(
        (
            "checkpoint.KeepRule",
            "shard.Initialisable",
            "shard.RulesFallback",
            "nn.initializers.Initializer",
        ),
        "a type for annotations, or the members of one",
    ),
    **dict.fromkeys(
        (
            "module.Region",
            "module.seen_as",
            "module.set_current_module",
            "module.tag_watch",
            "shard.init_placed",
            "plan.costs",
            "view.statistics",
            "module.Applier",
            "module.Blueprint",
            "module.ModuleState",
            "module.InterceptorContext",
            "module.blueprint_fields",
            "module.bound_copy",
            "module.map_modules",
            "module.methods_using",
            "module.run_noted",
            "module.setup_children",
            "module.table_of",
            "module.unbound_call",
            "module.union_of",
            "module.wrap_method_once",
        ),
        INSIDE,
    ),
    "module.Module": "fields are the user's; the names of submodules are looked at where they are taken",
    "module.current_module": "takes nothing",
    "module.tag": "names a value for who looks: any name, any value; nobody else sees it",
    **dict.fromkeys(("train.curves", "train.metric_names", "train.flops_of"), "rows and loops, as the loop has them"),
    **dict.fromkeys(
        ("plan.as_html", "plan.as_json", "plan.as_text", "plan.ranking"), "what plan.plan returns, and nothing else"
    ),
    **dict.fromkeys(
        ("train.from_tf", "train.from_torch", "train.from_datasets"),
        "another library's objects; tests/train/test_sources.py has what is refused",
    ),
    **dict.fromkeys(
        ("train.Aim", "train.Mlflow", "train.Wandb"),
        "its options are those of the library",
    ),
    "shard.get_logical_axis_rules": "takes nothing",
    "struct.PyTreeNode": "its options are those of struct.dataclass",
    **dict.fromkeys(
        (
            "checkpoint.Checkpoint.check_files",
            "checkpoint.Checkpoint.read_box",
            "checkpoint.Checkpoint.read_many",
            "checkpoint.Checkpoint.refuse_opaque",
        ),
        INSIDE,
    ),
    "train.TrainState": "made by create and init, which have rows",
    **dict.fromkeys(
        ("train.log_row", "train.show"), "a row of the loop; tests/train/test_arguments.py has what is none"
    ),
    **dict.fromkeys(("nn.MultiHeadAttention", "nn.SelfAttention"), "nn.MultiHeadDotProductAttention under other names"),
    **dict.fromkeys(
        ("nn.Bidirectional", "nn.RNNBase", "nn.RNNCellBase"),
        "its arguments are those of the layers within; tests/nn/test_errors.py has its own errors",
    ),
    **dict.fromkeys(
        ("nn.ones", "nn.zeros", "nn.ones_init", "nn.zeros_init", "nn.ConfiguredInitializer"),
        "as jax.nn.initializers has it; what cannot be drawn is an error of the catalogue",
    ),
    "nn.initializers.Initializer": "a type for annotations",
    "nn.pool": "max_pool, min_pool and avg_pool with an initial value and a function of JAX",
    **dict.fromkeys(
        (
            "nn.Fp8DirectDotGeneralOp",
            "nn.Fp8DotGeneralBase",
            "nn.Fp8DotGeneralOp",
            "nn.Fp8Einsum",
            "nn.NANOOFp8DotGeneralOp",
        ),
        "made by a layer in place of JAX's product; tests/nn/test_fp8.py has its errors",
    ),
}
WHOLE_PACKAGES = {
    "core": INSIDE,
    "nn.fp8_ops": "the arithmetic of Linen's module of this name, for those who write their own products",
}
