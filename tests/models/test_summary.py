"""What is read from traced networks: multiply-adds, receptive fields, the lecturer's table."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from families import one_each

import cnnjax
from cnnjax.models import ACTIVATIONS
from cnnjax.nn import local_response_norm, maxout

# Networks whose multiply-adds torchvision publishes.
PUBLISHED = [name for name in cnnjax.list_models() if cnnjax.model_info(name).gmacs is not None]
# One of each way to compute; the exhaustive run has them all.
PLAIN = ("resnet18", "vgg11", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x0_5", "convnext_tiny", "googlenet")


class Function(nn.Module):
    """A network made of a function of its input."""

    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", one_each(PUBLISHED, plain=PLAIN))
def test_multiply_adds_are_those_published(name):
    info = cnnjax.model_info(name)
    model = cnnjax.create_model(name, **({} if info.num_classes is None else {"num_classes": info.num_classes}))
    macs = cnnjax.count_macs(model, (*info.input_size, info.channels))
    # Three decimals are published, of which the smallest networks fill one or two.
    assert macs == pytest.approx(info.gmacs * 1e9, rel=0.005, abs=0.5e6)


@pytest.mark.slow
def test_auxiliary_heads_count_where_they_run():
    model = cnnjax.create_model("fcn_resnet50", num_classes=21)
    whole = cnnjax.count_macs(model, (64, 64, 3))
    # A 3x3 and a 1x1 convolution on the 8x8 maps of the last stage but one.
    aux = 8 * 8 * (9 * 1024 * 256 + 256 * 21)
    assert cnnjax.count_macs(model, (64, 64, 3), mutable=[]) == whole - aux
    assert cnnjax.count_macs(model.clone(aux=False), (64, 64, 3)) == whole - aux


def test_ten_filters_on_a_small_colour_image():
    model = nn.Conv(10, (5, 5))
    table = cnnjax.summary(model, (32, 32, 3))
    assert table.params == 760
    assert table.macs == cnnjax.count_macs(model, (1, 32, 32, 3)) == 32 * 32 * 10 * 5 * 5 * 3


def test_dense_layers_on_images():
    def network(features, use_bias):
        return Function(lambda x: nn.Dense(features, use_bias=use_bias, name="dense")(x.reshape(x.shape[0], -1)))

    table = cnnjax.summary(network(256, False), (256, 256, 1))
    assert table.params == table.macs == 16_777_216
    assert table.rows[-1].receptive_field == (256, 256)
    assert cnnjax.summary(network(10, True), (32, 32, 1)).params == 10_250


def test_bottleneck_before_large_filters():
    """96 filters of 5x5 on 16x16 maps of three channels, which a 1x1 convolution first merges into one."""
    filters = nn.Conv(96, (5, 5), use_bias=False)
    assert cnnjax.count_macs(filters, (16, 16, 3)) == 1_843_200
    assert cnnjax.count_macs(nn.Sequential([nn.Conv(1, (1, 1)), filters]), (16, 16, 3)) == 615_168


def test_a_batch_counts_all_its_images():
    model = cnnjax.create_model("resnet18")
    assert cnnjax.count_macs(model, (3, 64, 64, 3)) == 3 * cnnjax.count_macs(model, (64, 64, 3))
    with pytest.raises(ValueError, match=r"input_shape must be \(height, width, channels\).*got \(0, 32, 3\)"):
        cnnjax.count_macs(model, (0, 32, 3))


@pytest.mark.slow
def test_recomputing_stages_costs_nothing_in_a_forward_pass():
    plain, remat = (cnnjax.create_model("resnet20", num_classes=10, remat=remat) for remat in (False, True))
    assert cnnjax.count_macs(remat, (32, 32, 3)) == cnnjax.count_macs(plain, (32, 32, 3))
    rows = [cnnjax.summary(model, (32, 32, 3)).rows for model in (plain, remat)]
    assert rows[0] == rows[1]
    assert rows[0][-3].receptive_field == (81, 81)


@pytest.mark.parametrize(
    ("layers", "macs"),
    [
        # Each input pixel meets each value of a transposed kernel once.
        (lambda x: nn.ConvTranspose(7, (2, 2), strides=(2, 2))(x), 8 * 8 * 4 * 7 * 2 * 2),
        (lambda x: nn.Conv(8, (3, 3), feature_group_count=4)(x), 8 * 8 * 8 * 9),
        (lambda x: nn.Dense(5)(x), 8 * 8 * 4 * 5),
        (lambda x: jax.image.resize(x, (1, 16, 16, 4), "bilinear"), 0),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), 0),
    ],
)
def test_multiply_adds_of_layers(layers, macs):
    assert cnnjax.count_macs(Function(layers), (8, 8, 4)) == macs


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        (lambda x: nn.Conv(2, (3, 5))(nn.Conv(2, (3, 3), strides=2)(x)), (7, 11)),
        (lambda x: nn.Conv(2, (3, 3), kernel_dilation=4)(x), (9, 9)),
        (lambda x: nn.Conv(2, (2, 2))(nn.max_pool(x, (3, 3), (2, 2))), (5, 5)),
        (lambda x: nn.Conv(2, (3, 3))(x[:, ::2, ::2]), (5, 5)),
        # Between two pixels of its input a transposed convolution places another.
        (lambda x: nn.Conv(2, (3, 3))(nn.ConvTranspose(2, (2, 2), strides=(2, 2))(x)), (3, 3)),
        (lambda x: nn.Conv(2, (1, 1))(x + x.mean((1, 2), keepdims=True)), (32, 32)),
        (lambda x: nn.Conv(2, (1, 1))(jnp.swapaxes(x, 1, 2)), None),
    ],
)
def test_receptive_fields(layers, field):
    assert cnnjax.summary(Function(layers), (32, 32, 4)).rows[-1].receptive_field == field


def test_table_of_lenet():
    assert str(cnnjax.summary(cnnjax.create_model("lenet5", num_classes=10), (28, 28, 1))) == (
        """\
LeNet, input 1x28x28x1
path             layer               output shape  parameters  multiply-adds  receptive field
---------------------------------------------------------------------------------------------
stage1/conv1     Conv 5x5            1x28x28x6            156        117,600              5x5
stage1           tanh                1x28x28x6              0              0              5x5
stage1           average pool 2x2/2  1x14x14x6              0              0              6x6
stage2/conv1     Conv 5x5            1x10x10x16         2,416        240,000            14x14
stage2           tanh                1x10x10x16             0              0            14x14
stage2           average pool 2x2/2  1x5x5x16               0              0            16x16
head             flatten             1x400                  0              0            28x28
head/dense1      Dense               1x120             48,120         48,000            28x28
head             tanh                1x120                  0              0            28x28
head/dense2      Dense               1x84              10,164         10,080            28x28
head             tanh                1x84                   0              0            28x28
head/classifier  Dense               1x10                 850            840            28x28
---------------------------------------------------------------------------------------------
total            LeNet                                 61,706        416,520"""
    )


@pytest.mark.slow
def test_rows_add_up_at_every_depth():
    model = cnnjax.create_model("resnet50")
    for depth in (None, 1, 2):
        table = cnnjax.summary(model, (224, 224, 3), depth=depth)
        assert sum(row.params for row in table.rows) == table.params == 25_557_032
        assert sum(row.macs for row in table.rows) == table.macs
    stages = {row.path: row for row in cnnjax.summary(model, (224, 224, 3), depth=1).rows}
    assert list(stages) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert stages["stage4"].output_shape == (1, 7, 7, 2048)
    assert stages["stage4"].receptive_field == (427, 427)
    assert stages["head"].receptive_field == (224, 224)
    assert table.batch_stats == 53_120
    assert "running statistics" in str(table)


def test_aliases_of_layers_show_their_geometry():
    rows = cnnjax.summary(cnnjax.create_model("resnext50_32x4d", stage_sizes=(1, 1, 1, 1)), (64, 64, 3)).rows
    layers = {row.path: row.layer for row in rows}
    assert layers["stage2/block1/conv2"] == "Conv 3x3/2, 32 groups"
    assert layers["stem"] == "max pool 3x3/2"
    # A block ends with the sum of what went through it and around it.
    places = [place for place, row in enumerate(rows) if row.layer == "add"]
    assert len(places) == 4
    assert [rows[source].path for source in rows[places[1]].inputs] == [
        "stage2/block1/norm3",
        "stage2/block1/proj_norm",
    ]
    assert [row.layer for row in rows if row.path == "head"] == ["global average pool"]


@pytest.mark.parametrize(
    ("function", "layer"),
    [
        *((function, name) for name, function in ACTIVATIONS.items() if name not in ("identity", "logistic", "swish")),
        (ACTIVATIONS["logistic"], "sigmoid"),
        (ACTIVATIONS["swish"], "silu"),
        (lambda x: nn.gelu(x, approximate=False), "gelu"),
        (lambda x: maxout(maxout(x, 2), 3), "maxout"),
        (lambda x: local_response_norm(x, 3, alpha=1e-4, beta=0.75, k=2.0), "local response norm"),
        (lambda x: x + nn.relu(x), "add"),
        (lambda x: jnp.concatenate([x, x], -1), "concatenate"),
        (lambda x: x * x.max((1, 2), keepdims=True), "scale"),
        (lambda x: x.reshape(1, -1), "flatten"),
        (lambda x: nn.Dropout(0.25, deterministic=True)(x), "Dropout 0.25"),
        (lambda x: nn.Dropout(0.0, deterministic=True)(x), None),
        (lambda x: nn.BatchNorm(use_running_average=False)(x), "BatchNorm"),
        (lambda x: nn.LayerNorm()(x), "LayerNorm"),
    ],
)
def test_layers_without_parameters_have_their_row(function, layer):
    def network(x):
        x = function(nn.Conv(6, (3, 3))(x))
        return nn.Conv(6, (3, 3))(x) if x.ndim == 4 else x

    rows = cnnjax.summary(Function(network), (8, 8, 2), mutable=True).rows
    between = [row.layer for row in rows if row.layer != "Conv 3x3"]
    assert between[-1:] == ([] if layer is None else [layer])
    assert set(between[:-1]) <= {"relu", "global max pool", "maxout"}
    # Nothing is apart from the rest: each layer is in some other's inputs, and takes its own from some.
    assert {source for row in rows for source in row.inputs} == set(range(-1, len(rows) - 1))


class WithAuxiliaryHead(nn.Module):
    """A network with a head that runs in training only."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="stem")(x))
        if train or self.is_initializing():
            self.sow("aux_logits", "aux", nn.relu(nn.Dense(2, name="aux1")(x.mean((1, 2)))))
        return nn.Dropout(0.5, deterministic=not train)(nn.Conv(3, (1, 1), name="head")(x))


def test_heads_that_run_in_training_only_are_shown_and_not_counted():
    table = cnnjax.summary(WithAuxiliaryHead(), (8, 8, 1))
    assert [(row.path, row.layer, row.inputs, row.macs) for row in table.rows] == [
        ("stem", "Conv 3x3", (-1,), 8 * 8 * 9 * 4),
        ("", "relu", (0,), 0),
        ("", "global average pool", (1,), 0),
        ("aux1", "Dense", (2,), 8),
        ("", "relu", (3,), 0),
        ("head", "Conv 1x1", (1,), 8 * 8 * 12),
        ("Dropout_0", "Dropout 0.5", (5,), 0),
    ]
    assert [place for place, row in enumerate(table.rows) if row.training_only] == [2, 3, 4]
    assert sum(row.macs for row in table.rows if not row.training_only) == table.macs
    assert sum(row.params for row in table.rows) == table.params
    assert "Dense (in training)" in str(table)
    assert "and 8 multiply-adds in training" in str(table)
