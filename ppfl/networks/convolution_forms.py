"""Equal forms of a convolution and of its two gradients; which is the fastest depends on processor and shape.

Images and gradients are (S, channels, height, width), laid out with channels last; kernels (out, in, k, k), strides 1.
Every form runs everywhere, in float32 and float64; a table (`ppfl.networks.kernels`) says which one a run takes.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Form(Protocol):
    """One way to compute a convolution: y, ∂⟨g, y⟩/∂weight and ∂⟨g, y⟩/∂x."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
        """y_o = Σ_i weight_oi ⋆ x_i + bias_o."""
        ...

    def weight_gradient(self, x: torch.Tensor, g: torch.Tensor, kernel_size: int, padding: int) -> torch.Tensor:
        """g_o ⋆ x_i, (out, in, k, k)."""
        ...

    def input_gradient(self, g: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
        """Σ_o weight_oi ∗ g_o, as large as x."""
        ...


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return the same laid out with channels last, which is twice as fast on CPU; a copy where it is another layout."""
    x = x.permute(0, 2, 3, 1)
    # results depend on strides, and a dimension of length 1 has several: the last view leaves those of a fresh copy
    return x.contiguous().view(-1).view(x.shape).permute(0, 3, 1, 2)


class ChannelsLast:
    """The kernels that torch chooses for this layout: oneDNN's in float32."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        return torch.nn.functional.conv2d(x, channels_last(weight), bias, padding=padding)

    def weight_gradient(self, x: torch.Tensor, g: torch.Tensor, kernel_size: int, padding: int) -> torch.Tensor:
        """See Form."""
        like = g.new_empty(()).expand(g.shape[1], x.shape[1], kernel_size, kernel_size)  # shape and type alone are read
        return _backward(g, x, channels_last(like), padding, of_weight=True).contiguous()

    def input_gradient(self, g: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        x = g.new_empty(()).expand(_input_shape(g, weight.shape[1], weight.shape[2], padding))
        return _backward(g, x, channels_last(weight), padding, of_weight=False)


class Unfolded:
    """One product with all windows side by side, (in k k, S height width): for few input channels."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        size = weight.shape[2]
        windows = self._windows(x, size, padding)
        y = torch.addmm(bias, windows.T, weight.flatten(1).T)
        return y.view(len(x), *_output_size(x, size, padding), len(weight)).permute(0, 3, 1, 2)

    def weight_gradient(self, x: torch.Tensor, g: torch.Tensor, kernel_size: int, padding: int) -> torch.Tensor:
        """See Form."""
        found = self._windows(x, kernel_size, padding) @ _pixels(g)
        return found.T.reshape(g.shape[1], x.shape[1], kernel_size, kernel_size)

    def input_gradient(self, g: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        (num_samples, _, height, width), (_, channels, size, _) = g.shape, weight.shape
        of_windows = weight.flatten(1).T @ _pixels(g).T
        of_windows = of_windows.view(channels, size, size, num_samples, height, width)
        total = g.new_zeros(channels, num_samples, height + size - 1, width + size - 1)
        for row in range(size):
            for column in range(size):
                total[:, :, row : row + height, column : column + width] += of_windows[:, row, column]
        return channels_last(_crop(total.transpose(0, 1), padding))

    def _windows(self, x: torch.Tensor, size: int, padding: int) -> torch.Tensor:
        x = _padded(x, padding).transpose(0, 1)
        channels, num_samples, height, width = x.shape
        x = x.contiguous().view(-1).view(x.shape)
        shape = (channels, size, size, num_samples, height - size + 1, width - size + 1)
        channel, sample, row, column = x.stride()
        return x.as_strided(shape, (channel, row, column, sample, row, column)).reshape(channels * size * size, -1)


class UnfoldedRows:
    """A product for each row of the kernel, with windows side by side along the width alone, (height, S, width, k in).

    Rows come first, so that the operand of each product is a part of the same memory: of windows only 1/k is copied,
    and it stays in the cache.
    """

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        size = weight.shape[2]
        windows, (height, width) = self._windows(x, size, padding), _output_size(x, size, padding)
        factors = weight.permute(2, 3, 1, 0).reshape(size, size * weight.shape[1], len(weight))
        y = torch.addmm(bias, windows[:height].flatten(0, 2), factors[0])
        for row in range(1, size):
            y.addmm_(windows[row : row + height].flatten(0, 2), factors[row])
        return y.view(height, len(x), width, len(weight)).transpose(0, 1).contiguous().permute(0, 3, 1, 2)

    def weight_gradient(self, x: torch.Tensor, g: torch.Tensor, kernel_size: int, padding: int) -> torch.Tensor:
        """See Form."""
        windows, height, of_rows = self._windows(x, kernel_size, padding), g.shape[2], self._rows(g)
        found = [windows[row : row + height].flatten(0, 2).T @ of_rows for row in range(kernel_size)]
        return (
            torch.stack(found).view(kernel_size, kernel_size, x.shape[1], g.shape[1]).permute(3, 2, 0, 1).contiguous()
        )

    def input_gradient(self, g: torch.Tensor, weight: torch.Tensor, padding: int) -> torch.Tensor:
        """See Form."""
        (num_samples, _, height, width), (_, channels, size, _) = g.shape, weight.shape
        of_rows, factors = self._rows(g), weight.permute(2, 0, 3, 1).reshape(size, len(weight), -1)
        of_windows = g.new_empty(height + size - 1, num_samples, width, size * channels)
        torch.mm(of_rows, factors[0], out=of_windows[:height].flatten(0, 2))
        of_windows[height:].zero_()
        for row in range(1, size):
            of_windows[row : row + height].flatten(0, 2).addmm_(of_rows, factors[row])
        total = g.new_zeros(height + size - 1, num_samples, width + size - 1, channels)
        for column in range(size):
            total[:, :, column : column + width] += of_windows[..., column * channels : (column + 1) * channels]
        return channels_last(_crop(total.permute(1, 3, 0, 2), padding))

    def _windows(self, x: torch.Tensor, size: int, padding: int) -> torch.Tensor:
        x = channels_last(_padded(x, padding)).permute(0, 2, 3, 1)
        num_samples, height, width, channels = x.shape
        shape = (height, num_samples, width - size + 1, size * channels)
        sample, row, column, _ = x.stride()
        return x.as_strided(shape, (row, sample, column, 1)).contiguous()

    def _rows(self, g: torch.Tensor) -> torch.Tensor:
        return g.permute(2, 0, 3, 1).reshape(-1, g.shape[1])


FORMS: dict[str, Form] = {
    "channels_last": ChannelsLast(),
    "unfolded": Unfolded(),
    "unfolded_rows": UnfoldedRows(),
}
"""By the names that the table knows them by."""


def _output_size(x: torch.Tensor, size: int, padding: int) -> tuple[int, int]:
    return x.shape[2] + 2 * padding - size + 1, x.shape[3] + 2 * padding - size + 1


def _input_shape(g: torch.Tensor, channels: int, size: int, padding: int) -> tuple[int, int, int, int]:
    height, width = (pixels + size - 1 - 2 * padding for pixels in g.shape[2:])
    return len(g), channels, height, width


def _padded(x: torch.Tensor, padding: int) -> torch.Tensor:
    return torch.nn.functional.pad(x, [padding] * 4) if padding else x


def _pixels(g: torch.Tensor) -> torch.Tensor:
    return g.permute(0, 2, 3, 1).reshape(-1, g.shape[1])


def _crop(x: torch.Tensor, padding: int) -> torch.Tensor:
    return x[:, :, padding : x.shape[2] - padding, padding : x.shape[3] - padding]


def _backward(g: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, padding: int, *, of_weight: bool) -> torch.Tensor:
    wanted, ones = [not of_weight, of_weight, False], [1, 1]
    found = torch.ops.aten.convolution_backward(g, x, weight, None, ones, [padding] * 2, ones, False, [0, 0], 1, wanted)
    result: torch.Tensor = found[1 if of_weight else 0]
    return result
