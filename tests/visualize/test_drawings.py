"""Pictures of maps, filters, predictions, networks and curves: their colours, sizes and labels."""

import numpy as np
import pytest
from PIL import Image

import cnnjax
from cnnjax import visualize
from cnnjax.visualize import canvas


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def near(pixels, colour):
    return int((abs(pixels - np.array(colour)).max(-1) < 12).sum())


@pytest.fixture
def texts(monkeypatch):
    """Return what is written in the picture drawn last."""
    from matplotlib.text import Text

    found = []

    def save(figure, path, dpi=100):
        found[:] = [text.get_text() for text in figure.findobj(Text) if text.get_visible()]
        write(figure, path, dpi)

    write = canvas.save_figure
    for module in ("arithmetic", "maps", "features", "network", "quality"):
        monkeypatch.setattr(f"cnnjax.visualize.{module}.save_figure", save)
    return found


def test_signed_maps_are_white_at_0_and_others_start_at_it(tmp_path, texts):
    path = tmp_path / "maps.png"
    image = np.full((1, 4, 4, 1), 255, np.uint8)
    signed, fine = np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4, 2), np.float32)
    signed[0, 0] = -2
    fine[0, :, :2] = 0.5
    visualize.draw_maps(image, {"signed": signed, "fine": fine}, path, "title", labels=["seven"])
    assert {"title", "seven", "signed", "fine"} <= set(texts)
    pixels = pixels_of(path)
    # Of the map of pixels, drawn alone: both ends of viridis.
    assert near(pixels, (253, 231, 37)) > 500
    assert near(pixels, (68, 1, 84)) > 500
    # Red does not occur: no value is above 0.
    assert near(pixels, (103, 0, 31)) < 500
    with pytest.raises(ValueError, match="images' size"):
        visualize.draw_maps(image, {"small": signed[:, :2]}, path, "title")
    with pytest.raises(ValueError, match="at least one image"):
        visualize.draw_maps(image[:0], {}, path, "title")


def test_long_names_of_files_stay_inside_the_picture(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("cnnjax.visualize.maps.save_figure", lambda figure, *rest, **options: figures.append(figure))
    labels = ["DSC_20240719_103512_holiday_in_the_mountains_edited_copy_2.jpg: tabby cat"]
    images, path = np.zeros((1, 4, 4, 1), np.uint8), tmp_path / "picture.png"
    visualize.draw_maps(images, {"map": np.ones((1, 4, 4))}, path, "title", labels=labels)
    visualize.draw_predictions(images, [["cat"]], [[0.9]], path, labels=labels)
    for figure in figures:
        figure.draw_without_rendering()
        title = figure.axes[0].title
        assert "".join(title.get_text().split()) == labels[0].replace(" ", "")
        box = title.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert len(figures) == 2


def test_scales_say_what_lies_beyond_them():
    figure = canvas.new_figure(2, 2)
    axes = figure.subplots()
    values = np.array([[-3.0, 0], [1, 2]])
    drawn = canvas.show_values(axes, values, 2.0, True)
    canvas.add_scale(figure, axes, drawn, values)
    assert figure.axes[-1]._colorbar.extend == "min"
    assert drawn.get_clim() == (-2, 2)
    assert canvas.limit_of(np.zeros(3)) == 1
    assert canvas.limit_of(np.array([0, 0, 0, -5.0]), 0.5) == 5


@pytest.mark.slow
def test_filters_and_feature_maps_name_their_channels(tmp_path, texts):
    path = tmp_path / "features.png"
    visualize.draw_filters(np.ones((2, 2, 3, 4), np.float32), path, "first", most=3)
    assert {"0", "1", "2"} <= set(texts)
    assert "3" not in texts
    assert any("the first 3 of 4" in text and "white 1" in text for text in texts)
    # A weight of 1 in each colour is white, as the title says, and so are all filters.
    visualize.draw_filters(-np.ones((2, 2, 5, 2), np.float32), path, "deep")
    assert {"0→0", "4→1"} <= set(texts)
    assert near(pixels_of(path), (5, 48, 97)) > 1000
    visualize.draw_feature_maps({"stem": np.ones((3, 3, 9)), "stage1": np.ones((2, 2, 2))}, path, "maps", count=3)
    assert {"stem\n3x3x9", "stage1\n2x2x2", "4", "8"} <= set(texts)


def test_predictions_and_projections(tmp_path, texts):
    path = tmp_path / "panels.png"
    image = np.zeros((4, 4, 1), np.uint8)
    visualize.draw_predictions([image], [["cat", "dog"]], [[0.9, 0.05]], path, labels=["a photograph"])
    assert {"cat", "dog", "90.0 %", "5.0 %", "a photograph"} <= set(texts)
    visualize.draw_projections([[image, image[:2]]], [[image - 1.0, image[:2] + 1.0]], [7], path, "stage1")
    assert {"channel\n7", "patch", "projected"} <= set(texts)
    # The projection that is negative everywhere is black, and the other one white.
    assert near(pixels_of(path), (0, 0, 0)) > 3 * 1000


def test_a_network_is_drawn_with_sizes_and_parameters(tmp_path, texts):
    path = tmp_path / "network.png"
    summary = cnnjax.summary(cnnjax.create_model("lenet5", num_classes=10), (28, 28, 1))
    visualize.draw_network(summary, path, "LeNet-5")
    assert {"image", "stage1\nconv1", "head\nclassifier", "28x28x1"} <= set(texts)
    assert any("28x28x6" in text and "tanh" in text and "156\nparameters" in text for text in texts)
    assert any("61,706 parameters" in text for text in texts)


def test_branches_and_levels_are_drawn_with_where_they_come_from(tmp_path, texts):
    path = tmp_path / "network.png"
    visualize.draw_network(
        cnnjax.summary(cnnjax.create_model("resnet20", stage_sizes=(1, 1, 1)), (32, 32, 3)), path, "ResNet"
    )
    # A plus for each block, and at the start of a line what it goes on from.
    assert texts.count("+") == 3
    assert {"image", "stem", "stage1", "stage1/\nblock1", "block1/conv2"} <= set(texts)
    texts.clear()
    model = cnnjax.create_model("unet_same", features=(2, 3, 4))
    visualize.draw_network(cnnjax.summary(model, (16, 16, 1)), path, "U-Net")
    assert texts.count("C") == 2
    assert {"encoder/stage3", "decoder/stage1", "encoder/stage1/\nconv2", "head"} <= set(texts)
    deep = cnnjax.summary(cnnjax.create_model("mlp", features=(2,) * 161, num_classes=2), (2, 2, 1))
    with pytest.raises(ValueError, match="at most 160 blocks"):
        visualize.draw_network(deep, path, "deep")


def test_curves_name_their_areas(tmp_path, texts):
    path = tmp_path / "curves.png"
    curve = np.array([0, 1.0]), np.array([[1, 0.5], [0, 0.5]]), np.array([0.75, 0.25])
    visualize.draw_removal_curves({"deletion": {"saliency": curve}}, path, "title")
    assert {"saliency, area 0.500", "deletion: good maps have a small area"} <= set(texts)
    visualize.draw_randomization(["head", "stem"], {"saliency": np.array([[0.5], [np.nan]])}, path, "title")
    assert {"trained", "head", "stem", "saliency"} <= set(texts)


def test_convolution_is_drawn_with_its_sums(tmp_path, texts):
    path = tmp_path / "steps.png"
    image = np.arange(18.0).reshape(3, 3, 2)
    visualize.draw_convolution_steps(image, np.ones((2, 2, 2)), path, bias=0.5, steps=(1,))
    # Channels of the window at the top right: 2 + 4 + 8 + 10, and one more each.
    assert {"sum of products: 24", "sum of products: 28", "24 + 28 + 0.5 = 52.5", "bias 0.5", "52.5"} <= set(texts)
    for wrong, message in (
        ({"kernel": np.ones((2, 2, 3))}, "the same channels"),
        ({"steps": (4,)}, "from 0 to 3"),
        ({"image": np.ones((20, 21, 1)), "kernel": np.ones((2, 2))}, "at most 400"),
    ):
        with pytest.raises(ValueError, match=message):
            visualize.draw_convolution_steps(**{"image": image, "kernel": np.ones((2, 2, 2)), "path": path, **wrong})


def test_transposed_convolution_is_drawn_as_a_sum(tmp_path, texts):
    path = tmp_path / "sum.png"
    visualize.draw_transposed_sum([1, 2], [3, 4, 5], path, stride=2)
    assert {"1 times the kernel", "2 times the kernel", "the sum", "11"} <= set(texts)
    with pytest.raises(ValueError, match="at most 12 values"):
        visualize.draw_transposed_sum(np.ones((4, 4)), np.ones((2, 2)), path)
