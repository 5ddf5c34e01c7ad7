"""How large outputs are, and how much of the input each of their values sees: the formulas, in their usual symbols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def output_size(W: int, K: int, P: int = 0, S: int = 1, *, dilation: int = 1) -> int:
    """Return O = (W - K + 2P) / S + 1, rounded down: the size of what a convolution or pooling leaves.

    Values at the end that no whole step reaches are dropped, as every library does; some lectures call such sizes
    illegal instead. With dilation d the kernel covers d (K - 1) + 1 values, which stands for K.

    Source: Dumoulin and Visin 2016, arXiv:1603.07285, relationships 6 and 15.

    Args:
      W: size of the input.
      K: size of the kernel.
      P: values put on each side of the input.
      S: stride.
      dilation: distance of the kernel's taps.
    Raises:
      ValueError: sizes, stride or dilation under 1, negative padding, or a kernel that does not fit the padded input.

    >>> output_size(W=7, K=3, S=2), output_size(W=32, K=5, P=2)
    (3, 32)
    """
    for name, value, least in (("W", W, 1), ("K", K, 1), ("P", P, 0), ("S", S, 1), ("dilation", dilation, 1)):
        _check_at_least(name, value, least)
    covered = dilation * (K - 1) + 1
    if covered > W + 2 * P:
        raise ValueError(
            f"a kernel that covers {covered} values does not fit an input of {W} with {P} put on each side; "
            f"take P of at least {-(-(covered - W) // 2)}"
        )
    return (W - covered + 2 * P) // S + 1


def transposed_output_size(h: int, k: int, s: int = 1, p: int = 0, p_out: int = 0, *, dilation: int = 1) -> int:
    """Return (h - 1) s - 2p + k + p_out: the size of what a transposed convolution makes.

    Several sizes W lead to the same O = h under a stride; p_out chooses among them. With dilation d,
    d (k - 1) + 1 stands for k.

    Source: Dumoulin and Visin 2016, arXiv:1603.07285, relationship 14 (their a is p_out).

    Args:
      h: size of the input.
      k: size of the kernel.
      s: stride of the convolution that this one transposes.
      p: padding of the convolution that this one transposes: values cut off on each side here.
      p_out: values added at the end.
      dilation: distance of the kernel's taps.
    Raises:
      ValueError: sizes, stride or dilation under 1, negative padding, p_out of max(s, dilation) or more, or nothing
        left.

    >>> transposed_output_size(h=2, k=2), transposed_output_size(h=16, k=3, s=2, p=1, p_out=1)
    (3, 32)
    """
    for name, value, least in (
        ("h", h, 1),
        ("k", k, 1),
        ("s", s, 1),
        ("p", p, 0),
        ("p_out", p_out, 0),
        ("dilation", dilation, 1),
    ):
        _check_at_least(name, value, least)
    if p_out >= max(s, dilation):
        raise ValueError(
            f"p_out must be below the stride or the dilation ({max(s, dilation)}), got {p_out}; no convolution maps "
            "the larger size to this input"
        )
    size = (h - 1) * s - 2 * p + dilation * (k - 1) + 1 + p_out
    if size < 1:
        raise ValueError(f"nothing is left of {size + 2 * p} values once p = {p} are cut off each side; lower p")
    return size


class ReceptiveField(NamedTuple):
    """What one value of a stack's output sees of the input."""

    size: int
    """Values of the input, along one dimension."""
    stride: int
    """Distance in the input of what two neighbours see."""


def receptive_field(layers: Iterable[Sequence[int]]) -> ReceptiveField:
    """Return the receptive field of a stack of convolutions and poolings, along one dimension.

    Each layer adds d (K - 1) times the product of all strides before it.

    Source: Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural networks", Distill,
    equation 2.

    Args:
      layers: first to last, (K,), (K, S) or (K, S, dilation) each.
    Raises:
      ValueError: another number of values, or one below 1.

    >>> receptive_field([(3,), (3,)]), receptive_field([(7, 2), (3, 2)])
    (ReceptiveField(size=5, stride=1), ReceptiveField(size=11, stride=4))
    """
    size = stride = 1
    for layer in layers:
        if not 1 <= len(layer) <= 3:
            raise ValueError(f"a layer must be (K,), (K, S) or (K, S, dilation), got {tuple(layer)}")
        kernel, step, dilation = (*layer, *(1, 1, 1)[len(layer) :])
        for name, value in (("K", kernel), ("S", step), ("dilation", dilation)):
            _check_at_least(name, value, 1)
        size += dilation * (kernel - 1) * stride
        stride *= step
    return ReceptiveField(size, stride)


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
