"""XLA reads its flags once in a process, so that oneDNN is tried in others."""

import os
import platform
import subprocess
import sys

import jax
import jaxlib
import pytest

from cnnjax.nn import onednn

# Both of a geometry that oneDNN computes wholly, and of one that it computes in part or not at all: images, kernel,
# strides, padding, dilation of images and kernel, groups, whether values and images' gradient are oneDNN's.
CODE = """
import itertools, os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from cnnjax.nn import Conv
from cnnjax.nn.convolve import conv_general_dilated
from cnnjax.nn.onednn import is_used, use_onednn
import cnnjax
reason = use_onednn()
if reason:
    raise SystemExit(reason)
flags = os.environ["XLA_FLAGS"]
assert use_onednn() is None and os.environ["XLA_FLAGS"] == flags
jax.config.update("jax_enable_x64", True)
NUMBERS = ("NHWC", "HWIO", "NHWC")
ROWS = [
    ((2, 18, 17, 16), (3, 3, 16, 32), (1, 1), "SAME", (1, 1), (1, 1), 1, True, True),
    ((2, 18, 17, 16), (3, 2, 16, 32), (1, 1), ((1, 1), (-1, 2)), (1, 1), (1, 2), 1, True, False),
    ((2, 19, 18, 16), (3, 3, 16, 32), (2, 2), "SAME", (1, 1), (1, 1), 1, True, True),
    ((2, 19, 18, 16), (3, 2, 16, 32), (2, 1), ((1, 1), (0, 1)), (1, 1), (1, 2), 1, True, False),
    ((2, 33, 34, 3), (7, 7, 3, 16), (2, 2), ((3, 3), (3, 3)), (1, 1), (1, 1), 1, True, True),
    ((2, 24, 24, 3), (3, 3, 3, 24), (2, 2), "VALID", (1, 1), (1, 1), 1, True, True),
    ((2, 18, 17, 24), (3, 3, 1, 24), (1, 1), "SAME", (1, 1), (1, 1), 24, True, True),
    ((2, 18, 17, 24), (5, 5, 1, 48), (2, 2), "SAME", (1, 1), (1, 1), 24, True, False),
    ((2, 14, 14, 64), (3, 3, 16, 32), (1, 1), ((3, 1), (0, 2)), (1, 1), (1, 1), 4, True, False),
    ((2, 14, 14, 64), (3, 3, 2, 96), (1, 1), "SAME", (1, 1), (1, 1), 32, True, True),
    ((2, 9, 10, 16), (4, 4, 16, 24), (1, 1), ((2, 2), (2, 2)), (2, 2), (1, 1), 1, True, True),
    ((2, 80, 16), (5, 16, 24), (1,), "SAME", (1,), (1,), 1, True, False),
    ((2, 9, 10, 11, 8), (3, 3, 3, 8, 16), (1, 1, 1), "SAME", (1, 1, 1), (1, 1, 1), 1, True, True),
    ((2, 3, 3, 16), (3, 3, 16, 16), (1, 1), "SAME", (1, 1), (1, 1), 1, False, False),
]
for images, kernel, strides, padding, dilated, dilation, groups, values, gradient in ROWS:
    rank = len(strides)
    numbers = {1: ("NWC", "WIO", "NWC"), 2: NUMBERS, 3: ("NDHWC", "DHWIO", "NDHWC")}[rank]
    if isinstance(padding, str):
        window = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        padding = lax.padtype_to_pads(images[1:-1], window, strides, padding)
    arguments = (strides, padding, dilated, dilation, numbers, groups)
    rng = np.random.default_rng(0)
    x, k = rng.standard_normal(images), rng.standard_normal(kernel)
    exact = lambda x, k: lax.conv_general_dilated(x, k, *arguments)
    ours = lambda x, k: conv_general_dilated(x, k, *arguments)
    want, back = jax.vjp(exact, x, k)
    g = rng.standard_normal(want.shape)
    small = [jnp.asarray(a, jnp.float32) for a in (x, k, g)]
    forward = jax.jit(ours).lower(*small[:2]).compile()
    of_images = jax.jit(lambda x, k, g: jax.vjp(lambda x: ours(x, k), x)[1](g)[0]).lower(*small).compile()
    of_kernel = jax.jit(lambda x, k, g: jax.vjp(lambda k: ours(x, k), k)[1](g)[0]).lower(*small).compile()
    for got, expected in zip([forward(*small[:2]), of_images(*small), of_kernel(*small)], [want, *back(g)]):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    target = "__onednn$convolution"
    assert (target in forward.as_text()) == values, (images, kernel)
    assert not gradient or target in of_images.as_text(), (images, kernel)
    if values and rank == 2 and set(dilated) == {1}:
        # Of dense windows, oneDNN's with strides, and Eigen's without; of small ones over few channels, a product.
        strided = groups == 1 and set(strides) != {1} and (images[-1] > 4 or kernel[0] > 5)
        assert (target in of_kernel.as_text()) == strided, (images, kernel)
        assert groups > 1 or set(strides) != {1} or " convolution(" in of_kernel.as_text(), (images, kernel)
    # Float64 has the forms that it has without, and half types are computed in float32.
    np.testing.assert_allclose(jax.jit(ours)(x, k), want, rtol=1e-9, atol=1e-9)
    half = jax.jit(ours)(*(a.astype(jnp.bfloat16) for a in small[:2]))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), want, rtol=0.05, atol=0.05 * np.abs(want).max())
assert is_used()

jax.config.update("jax_enable_x64", False)
# A normalisation reads the result: YNNPACK would take the convolution with its sums.
model = cnnjax.create_model("convnext_tiny", num_classes=3, features=(16,) * 4, stage_sizes=(1,) * 4)
images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
variables = jax.jit(model.init)(jax.random.key(1), images)
loss = lambda variables, images: (model.apply(variables, images) ** 2).sum()
step = jax.jit(jax.grad(loss)).lower(variables, images).compile()
# One block of each stage has a depthwise convolution and its images' gradient; the last map has 2x2 pixels.
assert step.as_text().count('custom_call_target="__onednn$convolution"') == 2 * 4, step.as_text()
assert "feature_group_count=16" not in step.as_text()
whole = step(variables, images)
# In a loop, over several examples at once, and on two devices.
total = lambda variables: lax.scan(lambda _, image: (None, loss(variables, image[None])), None, images)[1].sum()
several = lambda variables: jax.vmap(lambda image: loss(variables, image[None]))(images).sum()
divided = jax.device_put(images, jax.NamedSharding(jax.sharding.Mesh(jax.devices(), "d"), jax.P("d")))
for other in (total, several, lambda variables: loss(variables, divided)):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4 * float(jnp.abs(b).max() + 1)),
        jax.jit(jax.grad(other))(variables), whole,
    )
print("the same")
"""
LINUX = sys.platform.startswith("linux") and platform.machine() == "x86_64"


def test_networks_and_derivatives_are_the_same_by_onednn():
    """Where oneDNN cannot be used, that it says why is what this tests."""
    outside = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    done = subprocess.run([sys.executable, "-c", CODE], check=False, capture_output=True, text=True, env=environment)
    if LINUX and jaxlib.__version__.startswith(f"{onednn.TRIED}."):
        assert done.returncode == 0, done.stderr
        assert done.stdout == "the same\n"
        assert "Error" not in done.stderr
    else:
        assert done.stderr == onednn.use_onednn() + "\n"
        assert f"this is {jaxlib.__version__}" in done.stderr or not LINUX


@pytest.mark.skipif(not LINUX, reason="there, nothing is asked")
def test_what_comes_too_late_changes_nothing(monkeypatch):
    jax.numpy.zeros(1).block_until_ready()
    monkeypatch.setattr(onednn, "TRIED", ".".join(jaxlib.__version__.split(".")[:2]))
    for flags in ("--xla_cpu_enable_fast_math=false", None):
        if flags is None:
            monkeypatch.delenv("XLA_FLAGS")
        else:
            monkeypatch.setenv("XLA_FLAGS", flags)
        assert onednn.use_onednn() == "XLA has read its flags already; this has to come before JAX's first array"
        assert os.environ.get("XLA_FLAGS") == flags
    assert not onednn.is_asked()
    assert not onednn.is_used()


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [("sys.platform", "darwin", "on Linux with"), ("platform.machine", lambda: "aarch64", "with x86-64 processors")],
)
def test_why_it_cannot_be_is_told(attribute, value, reason, monkeypatch):
    monkeypatch.setattr(f"cnnjax.nn.onednn.{attribute}", value)
    assert reason in onednn.use_onednn()
