"""The train state: everything that one training step takes and the next one needs.

``TrainState.create`` and ``apply_gradients`` are those of Flax: parameters, an Optax transformation and its state, a
step counter, and whatever fields a subclass adds. ``TrainState.init`` starts from a blueprint instead, and carries all
that its ``init`` makes:

* ``params`` is the collection that gradients are taken of;
* ``collections`` holds every other one (``batch_stats``, ``cache``, ...) by name, but for those of one call;
* ``rngs`` holds the random streams; ``step_rngs()`` folds the step counter into each, so that a run that resumes at
  step n draws what the uninterrupted run drew at step n;
* ``extras`` holds what training keeps beside: averages of the parameters, the loss scale of half precision, how many
  updates were skipped (``_make_step.py``), the patience of early stopping, and whatever you put there.

A whole step, for a model with running statistics and dropout::

    def loss(params):
        logits, changed = state.apply_fn(
            state.variables(params), images, rngs=state.step_rngs(), mutable=list(state.collections)
        )
        return cross_entropy(logits, labels), changed


    grads, changed = jax.grad(loss, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, collections=changed)

``apply_fn`` and ``tx`` are static, so ``jax.jit`` compares them with ``==``: ``model.apply`` compares by the module's
value, and ``create`` gives ``tx`` equality by value (``_optimizer.py``). A state that is built again from an equal
blueprint and equal settings therefore meets the compiled step, and is not traced again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import jax
import jax.numpy as jnp

from batiste._arguments import refused
from batiste.errors import BatisteError, NoAverageError, StateArgumentError
from batiste.shard import PathRules, init_placed, shardings
from batiste.struct import PyTreeNode, field
from batiste.train._checks import (
    by_name,
    check_arguments,
    check_collections,
    check_fields,
    check_gradients,
    check_opt_state,
    check_optimizer,
    check_overwritten,
    check_updates,
    explain_failure,
)
from batiste.train._describe import described, described_in_html
from batiste.train._hyperparams import hyperparams_of, schedule_free_params
from batiste.train._memory import apart, check_there
from batiste.train._optimizer import by_value, doubt_if_changed

if TYPE_CHECKING:
    from collections.abc import Callable

    import optax  # pyright: ignore[reportMissingTypeStubs]
    from jax.sharding import Mesh

    from batiste.typing import Array, Key, MutableVariables, PyTree, Rngs

__all__ = ["AVERAGE", "FROZEN", "TrainState", "check_state", "is_overwritten", "optimised", "with_optimised"]

AVERAGE = "average"
"""The entry of ``extras`` that has averaged parameters."""

FROZEN = "frozen_params"
"""A collection of parameters that are not trained: those below adapters."""

# A collection beside "params" whose gradients are its new values (the scales of 8-bit layers). Flax's name.
_OVERWRITE = "_overwrite_with_gradient"
# What one call wants, in the extents of its batch; made by `init` for those who read them there.
_PASSING = frozenset({"intermediates", "perturbations"})
_COMPUTED = ("step", "params", "opt_state")  # by apply_gradients
_MADE = ("step", "apply_fn", "params", "tx", "opt_state")  # by create


class _Blueprint(Protocol):
    """What ``TrainState.init`` needs of a model."""

    @property
    def apply(self) -> Callable[..., Any]: ...

    @property
    def init(self) -> Callable[..., Any]: ...


class TrainState(PyTreeNode):
    """Parameters, optimiser, step counter and, after ``init``, every other collection and the random streams.

    A subclass adds fields of its own as annotations: ``ema: Any``, ``batch_stats: Any``, ...

    Attributes:
      step: how many times gradients were applied: an integer, after the first step an ``int32`` array.
      apply_fn: the model's ``apply``; static.
      params: the parameters, a tree of arrays.
      tx: the Optax transformation; static.
      opt_state: its state.
      collections: every other collection by name; empty after ``create`` unless given.
      rngs: random streams by name; empty after ``create`` unless given.
      extras: what training keeps beside, by name: trees of arrays.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> state = train.TrainState.init(model, optax.adam(1e-3), jax.random.key(0), x)
      >>> grads = jax.tree.map(jnp.ones_like, state.params)
      >>> state = state.apply_gradients(grads=grads)
      >>> int(state.step), sorted(state.params)
      (1, ['bias', 'kernel'])
    """

    step: int | Array
    apply_fn: Callable[..., Any] = field(pytree_node=False)
    params: PyTree
    tx: optax.GradientTransformation = field(pytree_node=False)
    opt_state: PyTree
    collections: dict[str, Any] = field(default_factory=dict, kw_only=True)
    rngs: dict[str, Key] = field(default_factory=dict, kw_only=True)
    extras: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**{"repr": False, **options})

    def __repr__(self) -> str:
        return described(self)

    def _repr_html_(self) -> str:
        return described_in_html(self)

    @classmethod
    @by_name("apply_fn=model.apply", 'params=variables["params"]', "tx=optax.adam(1e-3)")
    def create(
        cls, *, apply_fn: Callable[..., Any], params: PyTree, tx: optax.GradientTransformation, **more: Any
    ) -> Self:
        """Return a state at step 0 with a fresh optimiser state.

        No two arrays of it share memory, so that a step may use it up (be donated it): what is given twice is copied.

        Args:
          apply_fn: the model's ``apply``, or any function that the training step calls through the state; or None.
          params: the parameters.
          tx: an Optax transformation.
          **more: the other fields, by name.

        Raises:
          OptimizerTypeError: ``tx`` has no ``init`` and ``update``.
          StateArgumentError: a name of ``more`` is no field, or ``apply_fn`` is no function.
          StateCallError: an argument is missing, or given without its name.
        """
        check_optimizer(cls.__name__, "create", tx)
        _check_apply(cls.__name__, apply_fn)
        check_fields(cls.__name__, more, [name for name in cls.__dataclass_fields__ if name not in _MADE])
        tx = by_value(tx)
        made = cls(step=0, apply_fn=apply_fn, params=params, tx=tx, opt_state=tx.init(optimised(params)), **more)
        return apart(made)

    @classmethod
    def init(
        cls,
        model: _Blueprint,
        tx: optax.GradientTransformation,
        rngs: Rngs,
        *inputs: Any,
        mesh: Mesh | None = None,
        rules: PathRules | None = None,
        **kwargs: Any,
    ) -> Self:
        """Initialise ``model`` and return a state that carries its collections and the random streams.

        ``perturbations`` and ``intermediates`` belong to a call and have the size of its batch. They stay out of the
        state, unless ``mutable=`` is given, which is ``model.init``'s and says which collections are made.

        With a mesh, parameters and optimiser are made directly where they are to lie, with the same values on any mesh.

        Args:
          model: the blueprint.
          tx: an Optax transformation.
          rngs: the random streams, or one key; kept in the state for ``step_rngs``.
          *inputs: what the model is called with; shapes (``jax.ShapeDtypeStruct``) will do.
          mesh: the devices that it is to lie on, such as ``shard.mesh("data=2,fsdp=-1")``; None for the default one.
          rules: how it is to lie there: ``shard.preset("fsdp")``, or rules over paths as ``params/Dense_0/kernel``;
            what belongs to a parameter lies as the parameter. None takes the names of boxes.
          **kwargs: a name that is a field which the subclass adds is that field's value; others go to ``model.init``.

        Raises:
          OptimizerTypeError: ``tx`` has no ``init`` and ``update``.
          ShardError: the rules do not fit the state or the mesh; see ``batiste.shard.specs``.
          StateArgumentError: ``model`` is no blueprint, or there are rules without a mesh.
        """
        check_optimizer(cls.__name__, "init", tx)
        _check_model(cls.__name__, model)
        if mesh is not None:
            return cls._init_on(mesh, rules, model, tx, rngs, inputs, kwargs)
        if rules is not None:
            reason, advice = "there is no mesh that they could speak of", 'Give mesh=shard.mesh("data=-1") as well.'
            raise StateArgumentError(kind=cls.__name__, method="init", name="rules", reason=reason, advice=advice)
        added = cls.__dataclass_fields__.keys() - TrainState.__dataclass_fields__.keys()
        fields = {name: kwargs.pop(name) for name in tuple(kwargs) if name in added}
        return cls._of(model, tx, rngs, _init_of(model)(rngs, *inputs, **kwargs), fields)

    @classmethod
    def _of(
        cls, model: _Blueprint, tx: optax.GradientTransformation, rngs: Rngs, variables: Any, fields: dict[str, Any]
    ) -> Self:
        """Return the state of variables."""
        collections = dict(variables)
        params = collections.pop("params", {})
        if _OVERWRITE in collections:
            params = {"params": params, _OVERWRITE: collections.pop(_OVERWRITE)}
        streams: Mapping[str, Any] = rngs if isinstance(rngs, Mapping) else {"params": rngs}
        own = {name: jnp.copy(key) for name, key in streams.items()}  # so that a donated state leaves the caller's keys
        return cls.create(apply_fn=model.apply, params=params, tx=tx, collections=collections, rngs=own, **fields)

    @classmethod
    def _init_on(
        cls, mesh: Mesh, rules: PathRules | None, model: _Blueprint, tx: Any, rngs: Rngs, inputs: Any, kwargs: Any
    ) -> Self:
        """Make the variables on a mesh, then the optimiser: so what drawing numbers takes is given back before."""
        added = cls.__dataclass_fields__.keys() - TrainState.__dataclass_fields__.keys()
        fields = {name: kwargs.pop(name) for name in tuple(kwargs) if name in added}

        def of(variables: Any, rngs: Rngs) -> Self:
            return cls._of(model, tx, rngs, variables, fields)

        def where(shapes: Any) -> Any:
            """Return where variables are to lie: as in the whole state."""
            placed.append(shardings(jax.eval_shape(of, shapes, rngs), rules, mesh))
            return placed[0].variables()

        placed: list[Any] = []
        variables = init_placed(_init_of(model), mesh, where, rngs, inputs, kwargs)
        with jax.set_mesh(mesh):
            return cast("Any", jax.jit(of, out_shardings=placed[0], donate_argnums=0))(variables, rngs)

    def variables(self, params: PyTree | None = None) -> MutableVariables:
        """Return what ``apply_fn`` takes: the parameters and every other collection.

        Args:
          params: the parameters to use instead of the state's: those that a loss is differentiated by.
        """
        chosen: Any = self.params if params is None else params
        return {**(chosen if is_overwritten(chosen) else {"params": chosen}), **self.collections}

    def hyperparams(self) -> dict[str, Any]:
        """Return what the optimiser computes with now: learning rate, momenta, decay, limits, by name.

        They are read out of the closures of any chain of Optax, schedules at their present count, and out of the states
        of ``inject_hyperparams`` and ``reduce_on_plateau``. Names within a group of ``by_pattern`` or
        ``optax.partition`` begin with the group's; what comes twice is numbered: ``weight_decay``, ``weight_decay_2``.
        """
        return hyperparams_of(self.tx, self.opt_state)

    def averaged_params(self) -> PyTree:
        """Return the parameters to evaluate with: the moving average, or those that a schedule-free optimiser has.

        Raises:
          NoAverageError: the state has neither.
        """
        params = optimised(self.params)
        if AVERAGE in self.extras:
            found = cast("Any", jax.tree).map(_as_own, self.extras[AVERAGE], params)
        else:
            found = schedule_free_params(self.opt_state, params)
            if found is None:
                raise NoAverageError(kind=type(self).__name__)
        return with_optimised(self.params, found)

    def step_rngs(self) -> dict[str, Key]:
        """Return the random streams of this step: each key of ``rngs`` with the step counter folded in.

        Raises:
          DeletedArrayError: a step has used up this state.
        """
        try:
            return {name: jax.random.fold_in(key, self.step) for name, key in self.rngs.items()}
        except (RuntimeError, ValueError) as error:  # JAX's for an array that is gone is the one or the other
            check_there(self, f"This {type(self).__name__}", error)
            raise

    @by_name("grads=grads")
    def apply_gradients(self, *, grads: PyTree, **kwargs: Any) -> Self:
        """Return the state after one update: new parameters, new optimiser state, one more step.

        Args:
          grads: gradients with the structure and the shapes of ``params``.
          **kwargs: a name that is a field replaces that field; ``collections`` replaces the collections that it names.
            Any other name is an extra argument of ``tx``, such as ``value=`` for ``optax.contrib.reduce_on_plateau``.

        Raises:
          StateArgumentError: a name is neither a field nor an argument that ``tx`` reads.
          OptimizerArgumentError: ``tx`` needs an argument that is not given.
          OptimizerStateError: ``opt_state`` is not that of this optimiser and these parameters.
          GradientsMismatchError: the gradients do not fit the parameters: another tree, shape or kind of dtype.
          StateCollectionError: ``collections`` names one that the state does not hold, lacks a variable, or has one of
            another shape.
          StateCallError: ``grads`` is missing, or given without its name.
          DeletedArrayError: a step has used up this state.
        """
        import optax  # pyright: ignore[reportMissingTypeStubs]

        kind = type(self).__name__
        replaceable = [name for name in self.__dataclass_fields__ if name not in _COMPUTED]
        changes = {name: kwargs.pop(name) for name in replaceable if name in kwargs}
        check_arguments(kind, self.tx, kwargs, replaceable, _COMPUTED)
        doubt_if_changed(self.tx)
        if "collections" in changes:
            check_collections(kind, changes["collections"], self.collections)
            changes["collections"] = {**self.collections, **changes["collections"]}
        params, grads_of_params = optimised(self.params), optimised(grads)
        if is_overwritten(self.params):
            given = grads[_OVERWRITE] if is_overwritten(grads) else None
            check_overwritten(kind, _OVERWRITE, self.params[_OVERWRITE], given)
        check_gradients(kind, self.tx, self.opt_state, params, grads_of_params, kwargs)
        try:
            updates, opt_state = self.tx.update(grads_of_params, self.opt_state, params, **kwargs)
            check_updates(kind, params, updates)
            new_params = optax.apply_updates(params, updates)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            if not isinstance(error, BatisteError):
                check_there(self, f"This {kind}", error)
                check_there(grads, "What was given as grads", error)
                explain_failure(kind, self.tx, error, self.opt_state, params, grads_of_params)
            raise
        check_opt_state(kind, self.opt_state, opt_state)
        if is_overwritten(self.params):
            new_params = {"params": new_params, _OVERWRITE: grads[_OVERWRITE]}
        return self.replace(step=self.step + 1, params=new_params, opt_state=opt_state, **changes)


def _check_apply(kind: str, apply_fn: Any) -> None:
    if hasattr(apply_fn, "apply") and hasattr(apply_fn, "init"):
        reason = "it is the model, and a state calls its apply"
        advice = "Give the method: apply_fn=model.apply."
    elif apply_fn is not None and not callable(apply_fn):
        reason = f"an object of type {type(apply_fn).__name__} is no function"
        advice = "Give apply_fn=model.apply, or None where nothing is called through the state."
    else:
        return
    raise StateArgumentError(kind=kind, method="create", name="apply_fn", reason=reason, advice=advice)


def _init_of(model: _Blueprint) -> Callable[..., Any]:
    """Return the model's ``init``, without the collections that belong to a call where nobody says which are made."""

    def init(rngs: Rngs, *inputs: Any, **kwargs: Any) -> Any:
        made = model.init(rngs, *inputs, **kwargs)
        return made if "mutable" in kwargs else {name: made[name] for name in made if name not in _PASSING}

    return init


def _check_model(kind: str, model: Any) -> None:
    if isinstance(model, type):
        reason, advice = f"{model.__name__} is a class", f"Make a blueprint of it: {model.__name__}(...)."
    elif not callable(getattr(model, "init", None)) or not callable(getattr(model, "apply", None)):
        reason = f"an object of type {type(model).__name__} has no init and apply"
        advice = f"Write {kind}.init(model, tx, rngs, *inputs); where variables are there already, {kind}.create(...)."
    else:
        return
    raise StateArgumentError(kind=kind, method="init", name="model", reason=reason, advice=advice)


def _as_own(average: Any, param: Any) -> Any:
    return average.astype(param.dtype)


def optimised(tree: PyTree) -> PyTree:
    """Return the part of parameters, or of their gradients, that the optimiser sees."""
    return tree["params"] if is_overwritten(tree) else tree


def with_optimised(tree: PyTree, part: PyTree) -> PyTree:
    """Return parameters with another part that the optimiser sees."""
    return {**tree, "params": part} if is_overwritten(tree) else part


def is_overwritten(tree: PyTree) -> bool:
    """Say whether the parameters, or their gradients, come with a collection that is overwritten."""
    return isinstance(tree, Mapping) and _OVERWRITE in tree


def check_state(state: Any, where: str) -> None:
    """Refuse what is no train state.

    Raises:
      ArgumentError: it is something else.
    """
    if not isinstance(state, TrainState):
        raise refused(state, "state", where, "a TrainState", "Make one: TrainState.init(model, tx, rngs, x).")
