"""Names and shapes of the arrays are those of each library whose golden file the plain run leaves out otherwise."""

import pytest
from test_golden import FILES, SHORT, family, load, slow, whole

import cnnjax
from cnnjax.pretrained import reference_shapes


def family_and_source(file):
    """Return whose names a golden file has."""
    return family(file), file.partition(".")[2]


def left_out():
    """Return the file of the smallest network of each family and library that no test of values stands for."""
    plain = {family_and_source(file) for file in (*SHORT, *(file for file in whole(FILES) if isinstance(file, str)))}
    found = {}
    for file in sorted(FILES, key=lambda file: cnnjax.model_info(file.partition(".")[0]).num_params):
        if family_and_source(file) not in plain:
            found.setdefault(family_and_source(file), file)
    return sorted(found.values())


@pytest.mark.parametrize("file", slow(left_out(), {"densenet", "inception_v3", "inception_v4", "nasnet"}))
def test_names_and_shapes(file):
    meta, _ = load(file)
    expected = {name: tuple(shape) for name, shape in meta["shapes"].items()}
    assert reference_shapes(meta["name"], source=meta["source"], **meta["fields"]) == expected
