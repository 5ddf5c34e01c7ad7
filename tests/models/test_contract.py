"""What every variant owes its users; runs over the whole table, by shape inference unless a value is needed."""

import re

import abstract_init
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import DEEP, FAMILIES, one_each, smallest
from flax import traverse_util
from jax.interpreters.partial_eval import dce_jaxpr

import cnnjax

NAMES = cnnjax.list_models()
TOP_LEVEL = re.compile(r"stem|stage[1-9]\d*|head|aux[1-9]\d*|encoder|decoder")
NUMBERED = re.compile(r"[a-z]+(_[a-z]+)*([1-9]\d*)?")
# Networks whose last layer compares with fixed codes of this length, so that "head/classifier" has no parameters.
FIXED_CODES = {"lenet5_1998": 84}


def published(name, **fields):
    """Return the variant with its published number of classes, and abstract images it was published for."""
    info = cnnjax.model_info(name)
    classes = {} if info.num_classes is None else {"num_classes": info.num_classes}
    model = cnnjax.create_model(name, **(classes | fields))
    return model, jax.ShapeDtypeStruct((2, *info.input_size, info.channels), jnp.float32)


# Their test of both modes takes longest.
SLOW = {
    *("deeplabv3_mobilenet_v3_large", "fcn_resnet50", "googlenet", "inception_v2", "inception_v3", "inception_v4"),
    *("lraspp_mobilenet_v3_large", "nasnet_mobile", "regnet_y_400mf", "seresnext50_32x4d", "shufflenet_v2_x0_5"),
}
IN_BOTH_MODES = set(smallest()) - SLOW


# Many shapes that no other network has.
LARGE = {
    *(f"efficientnet_{size}" for size in ("b3", "b4", "b5", "b6", "b7", "v2_m", "v2_l")),
    *("densenet161", "densenet169", "densenet201", "inception_resnet_v2", "regnet_y_128gf", "regnet_y_32gf"),
}
SIBLINGS = {family: [n for n in NAMES if cnnjax.model_info(n).family == family] for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_types_and_paths(family):
    """Families in one go, since their networks share blocks."""
    for name in sorted(set(SIBLINGS[family]) - IN_BOTH_MODES - DEEP - LARGE):
        check_sizes_types_and_paths(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_sizes_types_and_paths_of_large_networks(name):
    check_sizes_types_and_paths(name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(DEEP))
def test_sizes_types_and_paths_of_deep_networks(name):
    check_sizes_types_and_paths(name)


def check_sizes_types_and_paths(name):
    """Check it, and return the model, abstract images, outputs and variables."""
    info = cnnjax.model_info(name)
    model, images = published(name, dtype=jnp.bfloat16)
    out, variables = abstract_init.init_with_output(model, images)
    params = variables["params"]

    # Exact size, and storage in float32 whatever the compute type.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == info.num_params, name
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    check_paths(params, classifier=info.num_classes is not None and name not in FIXED_CODES)

    # Outputs in float32.
    assert out.dtype == jnp.float32
    assert out.shape == output_shape(info)
    return model, images, out, variables


def traced(function, *args):
    """Return the program of a function; paths and variables of its arguments; shapes and variables of its outputs."""
    jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*args)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(args)]
    sources = dict(zip(paths, jaxpr.jaxpr.invars, strict=True))
    return jaxpr.jaxpr, sources, out, jax.tree.unflatten(jax.tree.structure(out), jaxpr.jaxpr.outvars)


@pytest.mark.parametrize("name", one_each(NAMES, slow=SLOW))
def test_evaluation_and_training_mode(name):
    """Read off the programs, which need not be compiled for it; values and gradients are in the golden files."""
    info = cnnjax.model_info(name)
    model, images, out, variables = check_sizes_types_and_paths(name)

    # Training draws from one stream, every parameter has a part in the outputs, and every statistic moves.
    def train(variables, images, key):
        mutable = ["batch_stats", "aux_logits"]
        return model.apply(variables, images, train=True, mutable=mutable, rngs={"dropout": key})

    program, sources, (logits, updates), (_, moved) = traced(train, variables, images, jax.random.key(1))
    assert (logits.shape, logits.dtype) == (out.shape, jnp.float32)
    statistics = variables.get("batch_stats", {})
    assert jax.tree.structure(updates.get("batch_stats", {})) == jax.tree.structure(statistics)
    assert not {id(leaf) for leaf in jax.tree.leaves(moved)} & {id(source) for source in sources.values()}
    losses = jax.tree_util.tree_leaves_with_path((logits, updates))
    learned_from = [path[0].idx == 0 or path[1].key == "aux_logits" for path, _ in losses]
    _, used = dce_jaxpr(program, learned_from)
    unused = [path for path, has_part in zip(sources, used, strict=True) if not has_part and "['params']" in path]
    assert unused == []

    # Evaluation draws nothing and hands statistics through. Without classes the network returns what its classifier
    # would have seen, and needs none.
    params, width = variables["params"], out.shape[-1]
    if info.num_classes is not None:
        width = FIXED_CODES.get(name) or params["head"]["classifier"]["kernel"].shape[-2]
        head = {name: layer for name, layer in params["head"].items() if name != "classifier"}
        model, params = model.clone(num_classes=0), params | {"head": head}

    def evaluate(variables, images):
        return model.apply(variables, images, mutable=["batch_stats"])

    _, sources, (features, _), (_, kept) = traced(evaluate, variables | {"params": params}, images)
    assert features.dtype == jnp.float32
    assert len(features.shape) == len(out.shape)
    assert (features.shape[0], features.shape[-1]) == (2, width)
    for path, variable in jax.tree_util.tree_leaves_with_path(dict(kept)):
        assert variable is sources[f"[0]{jax.tree_util.keystr(path)}"], path


def output_shape(info):
    """Return the shape of what a variant gives for two images of the size it was published for."""
    assert (info.num_classes is None) == (info.task == "restoration")
    if info.task == "classification":
        assert info.output_size is None
        return (2, info.num_classes)
    channels = info.channels if info.num_classes is None else info.num_classes
    return (2, *(info.output_size or info.input_size), channels)


def check_paths(params, *, classifier):
    for path in traverse_util.flatten_dict(params):
        assert TOP_LEVEL.fullmatch(path[0]), path
        assert all(NUMBERED.fullmatch(part) for part in path[1:]), path
    if classifier:
        assert "classifier" in params["head"]
    for group in ("stage", "block"):
        check_numbers_run_from_one(params, group)


def check_numbers_run_from_one(tree, group):
    numbers = sorted(int(m[1]) for key in tree if (m := re.fullmatch(rf"{group}(\d+)", key)))
    assert numbers == list(range(1, len(numbers) + 1))
    for value in tree.values():
        if hasattr(value, "items"):
            check_numbers_run_from_one(value, group)


@pytest.mark.parametrize("name", one_each(NAMES))
def test_too_small_images_are_refused_with_the_smallest_legal_size(name):
    info = cnnjax.model_info(name)
    model, _ = published(name)

    def init(size):
        _, variables = abstract_init.init_with_output(
            model, jax.ShapeDtypeStruct((1, size, size, info.channels), jnp.float32)
        )
        return variables

    assert init(info.min_size)["params"]
    if info.min_size > 1:
        with pytest.raises(ValueError, match=rf"smallest (legal size is )?{info.min_size}x{info.min_size}"):
            init(info.min_size - 1)
    if info.size_step > 1:
        assert init(info.min_size + info.size_step)["params"]
        with pytest.raises(
            ValueError, match=rf"multiple of {info.size_step}.*smallest {info.min_size}x{info.min_size}"
        ):
            init(info.min_size + 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", smallest())
def test_gradients(name, compile_quickly):
    """Golden files compare gradients without dropout; these have it."""
    info = cnnjax.model_info(name)
    model, _ = published(name)
    # Twice the smallest size, so that normalisation has something to average in the last stage.
    size = max(info.min_size * 2, 16) if info.min_size > 1 else 16
    images = jax.random.normal(jax.random.key(0), (4, size, size, info.channels))
    key = jax.random.key(1)
    variables = compile_quickly(model.init, key, images)(key, images)

    def gradients(params):
        def loss(params):
            out, updates = model.apply(
                variables | {"params": params},
                images,
                train=True,
                mutable=["batch_stats", "aux_logits"],
                rngs={"dropout": jax.random.key(2)},
            )
            # Auxiliary heads learn from losses of their own.
            outputs = [out, *jax.tree.leaves(updates.get("aux_logits", {}))]
            return sum((output**2).mean() for output in outputs), updates

        return jax.grad(loss, has_aux=True)(params)

    grads, updates = compile_quickly(gradients, variables["params"])(variables["params"])
    for path, leaf in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    for path, leaf in traverse_util.flatten_dict(updates.get("batch_stats", {}), sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert (leaf != traverse_util.flatten_dict(variables["batch_stats"], sep="/")[path]).any(), path


def test_unknown_names_and_fields_are_explained():
    with pytest.raises(ValueError, match="resnet50"):
        cnnjax.create_model("resnet_50")
    with pytest.raises(ValueError, match="unknown model 'qqqq'; cnnjax.list_models"):
        cnnjax.model_info("qqqq")
    with pytest.raises(ValueError, match="no field 'depth'; its fields are .*stage_sizes"):
        cnnjax.create_model("resnet18", depth=3)
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 0.*-1"):
        cnnjax.create_model("resnet18", num_classes=-1)


def test_lists_among_fields_become_tuples():
    model = cnnjax.create_model("resnet18", stage_sizes=[1, 1, 1, 1])
    assert model == cnnjax.create_model("resnet18", stage_sizes=(1, 1, 1, 1))
    hash(model)


def test_images_that_no_network_can_take_are_refused():
    model = cnnjax.create_model("lenet5", num_classes=10)
    with pytest.raises(TypeError, match="uint8.*normalise"):
        model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1), jnp.uint8))
    with pytest.raises(ValueError, match=r"batch, height, width, channels.*\(28, 28, 1\)"):
        model.init(jax.random.key(0), jnp.zeros((28, 28, 1)))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    with pytest.raises(ValueError, match="stage1/conv1: the kernel takes 1 input channels.*with 3"):
        model.apply(variables, jnp.zeros((1, 28, 28, 3)))


def test_lists_are_sorted_and_filtered():
    assert cnnjax.list_models("resnext101*") == ["resnext101_32x8d", "resnext101_64x4d"]
    assert sorted(NAMES) == NAMES
