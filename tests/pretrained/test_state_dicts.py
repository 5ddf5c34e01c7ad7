"""Weights by name: exact both ways, and every difference is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import cnnjax
from cnnjax.pretrained import from_state_dict, layouts, names, reference_shapes, sources, to_state_dict

RNG = np.random.default_rng(0)


def weights(name, **options):
    return {
        key: RNG.standard_normal(shape).astype(np.float32) for key, shape in reference_shapes(name, **options).items()
    }


def test_round_trip_is_exact_and_complete():
    state = weights("resnet18")
    variables = from_state_dict("resnet18", state | {"bn1.num_batches_tracked": np.array(7)})
    assert variables.keys() == {"params", "batch_stats"}
    np.testing.assert_array_equal(
        variables["params"]["stage2"]["block1"]["proj_conv"]["kernel"],
        state["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0),
    )
    back = to_state_dict("resnet18", variables)
    for key, value in state.items():
        np.testing.assert_array_equal(back.pop(key), value)
    # What PyTorch needs besides to load strictly: one counter a batch normalisation.
    assert len(back) == 20
    assert all(
        key.endswith(".num_batches_tracked") and value == 0 and value.dtype == int for key, value in back.items()
    )


def test_all_differences_are_listed_on_both_sides():
    state = weights("resnet18")
    state["layer9.weight"] = state.pop("layer3.1.bn2.running_var")
    state["conv1.weight"] = state["conv1.weight"].transpose(2, 3, 1, 0)
    with pytest.raises(ValueError, match="resnet18") as error:
        from_state_dict("resnet18", state)
    text = str(error.value)
    assert "1 missing:\n  layer3.1.bn2.running_var [256] (ours: batch_stats/stage3/block2/norm2/var [256])" in text
    assert "1 unexpected:\n  layer9.weight [256]" in text
    assert (
        "conv1.weight is [7, 7, 3, 64], expected [64, 3, 7, 7] (ours: params/stem/conv1/kernel [7, 7, 3, 64])" in text
    )

    variables = from_state_dict("resnet18", weights("resnet18"))
    variables["params"]["stem"]["conv2"] = variables["params"]["stem"].pop("conv1")
    with pytest.raises(ValueError, match="resnet18") as error:
        to_state_dict("resnet18", variables)
    assert "1 missing:\n  params/stem/conv1/kernel [7, 7, 3, 64] (torchvision: conv1.weight [64, 3, 7, 7])" in str(
        error.value
    )
    assert "1 unexpected:\n  params/stem/conv2/kernel" in str(error.value)


def test_weights_of_another_variant_are_recognised():
    with pytest.raises(ValueError, match=r"weights of resnet18; load them with from_state_dict\('resnet18'"):
        from_state_dict("resnet34", weights("resnet18"))
    with pytest.raises(ValueError, match="weights of resnet18; load them with .*num_classes=7"):
        from_state_dict("resnet34", weights("resnet18", num_classes=7))
    with pytest.raises(ValueError, match="weights of resnet18; load them with .*source='torch'"):
        from_state_dict("resnet18", weights("resnet18", source="torch"))


def test_heads_of_another_size():
    state = weights("resnet18")
    with pytest.raises(ValueError, match="fc.weight is .*1000, 512.*, expected .*10, 512.*"):
        from_state_dict("resnet18", state, num_classes=10)
    key = jax.random.key(3)
    variables = from_state_dict("resnet18", state, num_classes=10, redraw_head=key)
    head = variables["params"]["head"]["classifier"]
    assert head["kernel"].shape == (512, 10)
    # The classifier starts as the network initialises it: uniform within 1 / sqrt(512), biases at 0.
    assert 0.9 < np.abs(head["kernel"]).max() * 512**0.5 <= 1
    np.testing.assert_array_equal(head["bias"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["stem"]["norm1"]["mean"], state["bn1.running_mean"])
    # The other number of classes travels back, and without classes there is no head to miss.
    assert to_state_dict("resnet18", variables)["fc.weight"].shape == (10, 512)
    features = from_state_dict("resnet18", state, num_classes=0)
    assert "head" not in features["params"]
    assert "fc.weight" not in to_state_dict("resnet18", features)


def test_input_channels_are_those_of_the_weights():
    state = weights("resnet18")
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    variables = from_state_dict("resnet18", state)
    assert variables["params"]["stem"]["conv1"]["kernel"].shape == (7, 7, 1, 64)
    np.testing.assert_array_equal(to_state_dict("resnet18", variables)["conv1.weight"], state["conv1.weight"])


def test_unknown_sources_and_missing_rules():
    assert sources("resnet50") == ["torchvision", "timm", "torch", "cnnjax"]
    with pytest.raises(ValueError, match="source must be one of .*'keras'.*, got 'caffe'"):
        from_state_dict("resnet18", {}, source="caffe")
    with pytest.raises(ValueError, match="lenet5 has no weights in 'timm'; its sources are 'torch', 'cnnjax'"):
        from_state_dict("lenet5", {}, source="timm")
    with pytest.raises(ValueError, match="did you mean resnet50"):
        to_state_dict("resnet_50", {})


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", cnnjax.list_models())
def test_every_variant_has_a_name_for_every_array(name):
    for source in sources(name):
        shapes = reference_shapes(name, source=source)
        trainable = {k: v for k, v in shapes.items() if not k.endswith(("running_mean", "running_var"))}
        trainable = {
            k: v for k, v in trainable.items() if not k.endswith(("moving_mean", "moving_variance", "/mean", "/var"))
        }
        if source != "keras":
            assert sum(int(np.prod(s)) for s in trainable.values()) == cnnjax.model_info(name).num_params


def test_flattened_maps_run_channels_first_in_pytorch():
    maps = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)  # batch, height, width, channels
    theirs = RNG.standard_normal((7, 60)).astype(np.float32)
    layout = layouts.Flatten(channels=4)
    ours = layout.to_ours(theirs)
    np.testing.assert_allclose(
        maps.reshape(2, -1) @ ours, maps.transpose(0, 3, 1, 2).reshape(2, -1) @ theirs.T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(layout.to_source(ours), theirs)


def test_maps_made_of_a_dense_layer_run_channels_first_in_pytorch():
    theirs = RNG.standard_normal((60, 7)).astype(np.float32)
    x = RNG.standard_normal((2, 7)).astype(np.float32)
    layout = layouts.Unflatten(channels=4)
    ours = layout.to_ours(theirs)
    np.testing.assert_allclose(
        (x @ ours).reshape(2, 3, 5, 4),
        (x @ theirs.T).reshape(2, 4, 3, 5).transpose(0, 2, 3, 1),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_array_equal(layout.to_source(ours), theirs)
    np.testing.assert_array_equal(layout.to_source(layout.to_ours(theirs[:, 0])), theirs[:, 0])


@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("source", ["torch", "keras"])
def test_transposed_convolutions_are_gradients_of_convolutions(source, transpose_kernel):
    layer = cnnjax.nn.ConvTranspose(5, (2, 2), strides=(2, 2), use_bias=False, transpose_kernel=transpose_kernel)
    x = jnp.asarray(RNG.standard_normal((1, 3, 3, 4)), jnp.float32)
    shape = layer.init(jax.random.key(0), x)["params"]["kernel"].shape
    layout = layouts.default_layout(layer, "kernel", shape, source)
    # PyTorch stores [in, out, height, width], Keras [height, width, out, in].
    theirs = RNG.standard_normal({"torch": (4, 5, 2, 2), "keras": (2, 2, 5, 4)}[source]).astype(np.float32)
    assert layout.source_shape(shape) == theirs.shape
    kernel = jnp.asarray(theirs if source == "keras" else theirs.transpose(2, 3, 1, 0))

    def forward(y):
        return lax.conv_general_dilated(y, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    _, gradient = jax.vjp(forward, jnp.zeros((1, 6, 6, 5)))
    ours = layout.to_ours(theirs)
    np.testing.assert_allclose(layer.apply({"params": {"kernel": ours}}, x), gradient(x)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(layout.to_source(ours), theirs)


def test_layouts_by_kind_of_layer():
    depthwise = nn.Conv(8, (3, 3), feature_group_count=4)
    layout = layouts.default_layout(depthwise, "kernel", (3, 3, 1, 8), "keras")
    assert layout.source_shape((3, 3, 1, 8)) == (3, 3, 4, 2)
    assert layouts.default_layout(depthwise, "kernel", (3, 3, 1, 8), "timm").source_shape((3, 3, 1, 8)) == (8, 1, 3, 3)
    for layout, shape in (
        (layouts.Squeeze(), (1, 1, 3, 5)),
        (layouts.Squeeze(transpose=False), (1, 1, 3, 5)),
        (layouts.Expand(), (3, 5)),
        (layouts.Expand(size=2, transpose=False), (12, 5)),
        (layouts.Append(2), (3,)),
        (layouts.KerasDepthwise(4), (3, 3, 1, 8)),
    ):
        ours = RNG.standard_normal(shape)
        np.testing.assert_array_equal(layout.to_ours(layout.to_source(ours)), ours)
    assert layouts.leaf_names(nn.BatchNorm(), "keras")["bias"] == "beta"
    assert "bias" not in layouts.leaf_names(nn.Dense(3), "keras")


def test_names_are_read_from_the_left():
    rules = names.Rules(
        {
            "stage1/block#": "first_{:+2}",
            "stage#/block#": lambda stage, block: f"running{stage * 10 + block}",
            "conv#": "{:a}",
            "norm#/scale": names.Absent(1.0),
            "gate/kernel": "gate/depthwise_kernel",
        }
    )
    assert rules.name("stage1/block3/conv2/kernel", {}, "keras") == "first_5_b/kernel"
    assert rules.name("stage2/block3/conv2/bias", {"bias": "offset"}, "timm") == "running23.b.offset"
    assert rules.name("stage1/block1/norm1/scale", {}, "keras") == names.Absent(1.0)
    assert rules.name("stage1/block1/gate/kernel", {"kernel": "weight"}, "keras") == "first_3_gate/depthwise_kernel"
    with pytest.raises(KeyError, match="no rule for 'other/conv1' in stage1/block1/other/conv1/kernel"):
        rules.name("stage1/block1/other/conv1/kernel", {}, "keras")
