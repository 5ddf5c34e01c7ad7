"""The arithmetic that made a unit, in plain loops over what the page is told of its layer."""

import math

import numpy as np

STEPS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": max,
    "min": min,
    "tanh": math.tanh,
    "neg": lambda a: -a,
    "square": lambda a: a * a,
    "logistic": lambda a: 1 / (1 + math.exp(-a)),
    "erf": math.erf,
    "erfc": math.erfc,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "integer_pow": lambda a, n: a**n,
    "exp": math.exp,
}


def at(array, index):
    """Return the number of an array that is broadcast, at the place of a unit of a larger one."""
    array = np.asarray(array, np.float64)
    index = index[len(index) - array.ndim :]
    return float(array[tuple(min(i, size - 1) for i, size in zip(index, array.shape, strict=True))])


def window(core, size, index):
    """Yield (tap, position in the input) of what a window at a place of the output covers."""
    spread = core.get("input_dilation", (1, 1))
    for row in range(core["window"][0]):
        for column in range(core["window"][1]):
            tap = (row, column)
            place = [
                index[axis] * core["strides"][axis]
                - core["padding"][axis][0]
                + tap[axis] * core["kernel_dilation"][axis]
                for axis in (0, 1)
            ]
            if all(p % s == 0 and 0 <= p // s < n for p, s, n in zip(place, spread, size, strict=True)):
                yield tap, tuple(p // s for p, s in zip(place, spread, strict=True))


def core_value(layer, inputs, arrays, index):
    """Return what a layer's core makes of its inputs."""
    core, kind = layer["core"], layer["core"]["kind"]
    if kind == "conv":
        (x,) = inputs
        kernel, groups = arrays["kernel"], core["groups"]
        per, first = x.shape[-1] // groups, index[2] // (kernel.shape[-1] // groups)
        return sum(
            float(
                np.dot(x[place][first * per : (first + 1) * per].astype(float), kernel[tap][:, index[2]].astype(float))
            )
            for tap, place in window(core, x.shape[:2], index)
        )
    if kind == "dense":
        return float(np.dot(inputs[0][index[:-1]].astype(float), arrays["kernel"][:, index[-1]].astype(float)))
    if kind == "pool":
        values = [float(inputs[0][place][index[2]]) for _, place in window(core, inputs[0].shape[:2], index)]
        return {"max": max, "min": min, "sum": sum}[core["op"]](values)
    if kind == "reduce":
        rest = iter(index)
        kept = [slice(None) if axis in core["axes"] else next(rest) for axis in range(inputs[0].ndim)]
        values = inputs[0][tuple(kept)].astype(float)
        return float({"max": np.max, "min": np.min, "sum": np.sum}[core["op"]](values))
    if kind == "move":
        source = int(arrays["sources"][index])
        return 0.0 if source < 0 else float(np.concatenate([x.reshape(-1) for x in inputs])[source])
    if kind == "batch_norm":
        x = float(inputs[0][index])
        mean, var = float(arrays["mean"][index[-1]]), float(arrays["var"][index[-1]])
        return (x - mean) / math.sqrt(var + core["epsilon"]) * scale(arrays, index) + offset(arrays, index)
    if kind == "layer_norm":
        x = inputs[0][index[:-1]].astype(float)
        normal = (x[index[-1]] - x.mean()) / math.sqrt(x.var() + core["epsilon"])
        return normal * scale(arrays, index) + offset(arrays, index)
    if kind == "softmax":
        x = inputs[0].astype(float)
        return float(np.exp(x[index[0]] - x.max()) / np.exp(x - x.max()).sum())
    assert kind == "elementwise", kind
    return None


def scale(arrays, index):
    return float(arrays["scale"][index[-1]]) if "scale" in arrays else 1.0


def offset(arrays, index):
    return float(arrays["bias"][index[-1]]) if "bias" in arrays else 0.0


def unit(layer, inputs, arrays, index):
    """Return the value of one unit, from a layer's description, the values of its inputs and its arrays."""
    inputs = [x.reshape(ref["shape"]) for x, ref in zip(inputs, layer["inputs"], strict=True)]
    core = core_value(layer, inputs, arrays, index)
    done = []
    for step in layer["steps"]:
        numbers = []
        for argument in step["args"]:
            ((kind, value),) = argument.items()
            numbers.append(
                {
                    "core": lambda _: core,
                    "step": lambda n: done[n],
                    "number": lambda n: n,
                    "input": lambda n: at(inputs[n], index),
                    "array": lambda name: at(arrays[name], index),
                }[kind](value)
            )
        done.append(STEPS[step["op"]](*numbers))
    return done[-1] if done else core
