"""LeNet-5: transcriptions of section II.B of LeCun et al. 1998, and of its figure 2 with lectures' simplifications."""

from __future__ import annotations

import torch
from references.reference import Reference
from torch import nn

# Table I: an X where a map of S2 (row) feeds a map of C3 (column).
TABLE1 = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)
# The codes of the digits 0 to 9, 84 bits by rows of the bitmap: 1 for +1.
CODES = (
    0x0071B63C78F1E3C6D8E00,
    0x0030E3C183060C1831F80,
    0x0071B6306186186183F80,
    0x00FA1830678183070DF00,
    0x001871A658BF820408100,
    0x01FF060C1F8183078DF00,
    0x0079860C1FB1E3C78DF00,
    0x01FC1860C3061830C1800,
    0x00FB1E3C6FB1E3C78DF00,
    0x00FB1E3C6FC1830619E00,
)


class LeNet5(nn.Module):
    """C1 (6 maps, padded), S2, C3 (16 maps), S4, C5 (120), F6 (84), output (10); tanh, plain averages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"conv1": nn.Conv2d(1, 6, 5, padding=2)})
        self.stage2 = nn.ModuleDict({"conv1": nn.Conv2d(6, 16, 5)})
        self.head = nn.ModuleDict(
            {"dense1": nn.Linear(16 * 5 * 5, 120), "dense2": nn.Linear(120, 84), "classifier": nn.Linear(84, 10)}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(self.stage1["conv1"](x).tanh(), 2)
        x = nn.functional.avg_pool2d(self.stage2["conv1"](x).tanh(), 2).flatten(1)
        return self.head["classifier"](self.head["dense2"](self.head["dense1"](x).tanh()).tanh())


class Subsampling(nn.Module):
    """S2 and S4: the sum of four, times a coefficient, plus a bias."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(maps))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]
        return total * self.weight[:, None, None] + self.bias[:, None, None]


class C3(nn.Module):
    """One map after the other: the sum over the maps of S2 that table I connects it to.

    The kernels are kept by the number of connections: six maps with three, nine with four, one with six.
    """

    def __init__(self) -> None:
        super().__init__()
        for index, (connections, maps) in enumerate(((3, 6), (4, 9), (6, 1)), start=1):
            self.add_module(f"branch{index}", nn.Conv2d(connections * maps, maps, 5, groups=maps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernels = [kernel for branch in self.children() for kernel in branch.weight]
        biases = [bias for branch in self.children() for bias in branch.bias]
        maps = []
        for column, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            rows = [row for row in range(6) if TABLE1[row][column] == "X"]
            planes = [
                nn.functional.conv2d(x[:, row : row + 1], plane[None, None])
                for row, plane in zip(rows, kernel, strict=True)
            ]
            maps.append(torch.cat(planes, 1).sum(1) + bias)
        return torch.stack(maps, 1)


class LeNet51998(nn.Module):
    """C1, S2, C3, S4, C5, F6, all squashed by 1.7159 tanh(2x/3), and negated distances to the codes."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.ModuleDict({"conv1": nn.Conv2d(1, 6, 5), "subsampling1": Subsampling(6)})
        self.stage2 = nn.ModuleDict({"conv1": C3(), "subsampling1": Subsampling(16)})
        self.stage3 = nn.ModuleDict({"conv1": nn.Conv2d(16, 120, 5)})
        self.head = nn.ModuleDict({"dense1": nn.Linear(120, 84)})
        self.codes = torch.tensor([[1.0 if code >> (83 - bit) & 1 else -1.0 for bit in range(84)] for code in CODES])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in (self.stage1, self.stage2, self.stage3):
            for layer in stage.values():
                x = 1.7159 * torch.tanh(2 / 3 * layer(x))
        x = 1.7159 * torch.tanh(2 / 3 * self.head["dense1"](x.flatten(1)))
        return -((x[:, None] - self.codes) ** 2).sum(2)


REFERENCES = [
    Reference("lenet5", "torch", LeNet5, size=28, channels=1, training=True),
    Reference("lenet5_1998", "torch", LeNet51998, size=32, channels=1, training=True),
]
