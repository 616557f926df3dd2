"""The non-local block: its maths and its initialisation; it knows no backbone and no site."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcsearch.blocks.settings import MODES, key_positions, require_channels, require_choice

__all__ = ["NonLocal"]

# Symbolic tracing takes these as they are: they look at sizes.
for _name in ("_multiply", "_sub_sample"):
    torch.fx.wrap(_name)


class NonLocal(nn.Module):
    """The NL block (Wang et al., arXiv 1711.07971), as mmcv's ``NonLocal2d`` computes it.

    Every position is told a mean of all positions, weighted by what its own features say of
    theirs. With ``inter = max(C // 2, 1)`` channels, x_i the features of position i, and M keys::

        g, theta, phi = conv1x1(x)                               C -> inter, each
        y_i = sum over j of w_ij * g_j
        out = x + conv1x1(y)                                     inter -> C

        w_ij = softmax over j of (x_i . x_j)                     "gaussian"
               softmax over j of (theta_i . phi_j / sqrt(inter)) "embedded_gaussian"
               (theta_i . phi_j) / M                             "dot_product"
               relu(u . theta_i + v . phi_j) / M                 "concatenation"

    ``sub_sample`` max-pools keys (phi; x for "gaussian") and values (g) two by two.

    **Init.** ``g``, ``theta`` and ``phi`` are normal with deviation 0.01 and zero biases,
    ``concat_project`` Kaiming normal (fan out); ``conv_out`` is zero, so the output of a new
    block equals its input bit for bit (unless x holds a NaN or is so large that y overflows).
    Code that re-initialises every convolution afterwards spoils this.

    **Cost** with d = inter, L positions, M keys (L, or (H // 2) * (W // 2) if sub-sampled).
    Parameters: ``C*d + d`` for each of g, theta and phi ("gaussian" has g alone), ``2*d`` for
    "concatenation", ``d*C + C`` for the output. MACs: ``C*d*L`` for each of these convolutions;
    then ``2*L*M*d`` for "embedded_gaussian", ``2*L*M*C`` for "gaussian", ``(L + M + L*M)*d`` for
    "concatenation", and for "dot_product" the lesser of ``2*L*M*d`` and ``(L + M)*d*d``. Memory
    beyond a few tensors of the size of x: none but in "concatenation", whose ``L*M`` weights are
    held for each sample.

    **Names** in the state dict: ``g``, ``theta``, ``phi``, ``concat_project``, ``conv_out``. Those
    of mmcv, which wraps each of them, are translated by ``convert_state_dict``.

    **Deviations** from mmcv, none of which changes results beyond rounding. The softmax modes
    run as fused attention; "gaussian" applies g after the mean, as the weights sum to 1 (if
    sub-sampled, g is padded to C channels instead, since fused kernels want equal widths).
    "dot_product" multiplies phi and g first where that is less work. "concatenation" projects
    theta and phi before it pairs them, which spares pairs of ``2*d`` channels. The result is cast
    to the type of x, which is returned also under autocast. Normalisation of the output is left
    out. Which attention kernel runs, torch decides by device, type and width; only its plain
    fallback holds the weights.

    Args:
        channels: Channels of the input, C.
        mode: One of ``MODES``: how two positions are compared.
        sub_sample: Whether keys and values are max-pooled; the features then need two position
            axes of at least 2 positions each.
        use_scale: Whether logits are divided by ``sqrt(inter)``; acts on "embedded_gaussian" only.

    Raises:
        BlockError: A setting is not among the allowed.

    Example:
        >>> block = NonLocal(32, mode="dot_product", sub_sample=True)
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(block(x), x)
        True
        >>> block.attention(x, torch.tensor([0, 17, 34])).shape
        torch.Size([2, 3, 3, 2])
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: str = "embedded_gaussian",
        sub_sample: bool = False,
        use_scale: bool = True,
    ) -> None:
        super().__init__()
        require_channels("nl", channels)
        require_choice(mode, MODES, "mode")
        require_choice(sub_sample, (False, True), "sub_sample")
        self.channels, self.inter_channels = channels, max(channels // 2, 1)
        self.mode, self.sub_sample, self.use_scale = mode, sub_sample, use_scale
        is_embedded, is_concatenated = mode != "gaussian", mode == "concatenation"
        inter = self.inter_channels
        self.g = nn.Conv2d(channels, inter, 1)
        self.theta = nn.Conv2d(channels, inter, 1) if is_embedded else None
        self.phi = nn.Conv2d(channels, inter, 1) if is_embedded else None
        self.concat_project = nn.Conv2d(2 * inter, 1, 1, bias=False) if is_concatenated else None
        self.conv_out = nn.Conv2d(inter, channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as mmcv does: small embeddings, and nothing that is added to x."""
        for conv in (self.g, self.theta, self.phi):
            if conv is not None:
                nn.init.normal_(conv.weight, std=0.01)
                nn.init.zeros_(conv.get_parameter("bias"))
        if self.concat_project is not None:
            nn.init.kaiming_normal_(
                self.concat_project.weight, mode="fan_out", nonlinearity="relu"
            )
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.get_parameter("bias"))

    def attention(self, x: Tensor, queries: Tensor) -> Tensor:
        """Return the weights that some positions give to all, (N, Q, *key positions).

        They sum to 1 over the key positions in the softmax modes; in the others they are what g
        is multiplied by, of any sign and sum in "dot_product", none negative in "concatenation".

        Args:
            x: Features, (N, C, *positions).
            queries: Indices into the flattened positions, (Q,).

        Raises:
            BlockError: The positions of x cannot be sub-sampled.
        """
        keys_shape = key_positions(x.shape[2:], self.sub_sample)
        of_queries, of_keys = self._embed(_tokens(x), x)
        weights = self._weights(of_queries[:, queries], of_keys)
        return weights.reshape(*weights.shape[:2], *keys_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with what each position attends to added; same shape, type and layout.

        Raises:
            BlockError: The positions of x cannot be sub-sampled.
        """
        term = _convolve(self.conv_out, self._response(_tokens(x), x))
        # x - (0 - t) is x + t, but keeps the sign of a zero in x when t is zero.
        return x - (0.0 - term).to(x.dtype).transpose(1, 2).reshape(x.shape)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        settings = f"{self.mode}, sub_sample={self.sub_sample}, use_scale={self.use_scale}"
        return f"{self.channels}, inter={self.inter_channels}, {settings}"

    def _embed(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what queries and keys are compared by: (N, L, d) and (N, M, d)."""
        if self.theta is None or self.phi is None:
            return tokens, self._pool(tokens, x)
        return _convolve(self.theta, tokens), self._pool(_convolve(self.phi, tokens), x)

    def _pool(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Return keys or values, sub-sampled if so set: (N, L, d) -> (N, M, d)."""
        return _sub_sample(tokens, x) if self.sub_sample else tokens

    def _response(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Return y, what each position attends to: (N, L, C) -> (N, L, inter)."""
        queries, keys = self._embed(tokens, x)
        if self.mode == "gaussian" and not self.sub_sample:
            return _convolve(self.g, self._attend(queries, keys, keys))
        values = self._pool(_convolve(self.g, tokens), x)
        if self.mode == "gaussian":
            wide = F.pad(values, (0, self.channels - self.inter_channels))
            return self._attend(queries, keys, wide)[..., : self.inter_channels]
        if self.mode == "dot_product":
            return _multiply(queries, keys, values)
        if self.mode == "concatenation":
            return self._weights(queries, keys) @ values
        return self._attend(queries, keys, values)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return means of the values under softmax weights, without holding the weights."""
        q, k, v = (part.unsqueeze(1) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(q, k, v, scale=self._scale()).squeeze(1)

    def _weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the weights of all keys for each query, (N, Q, M)."""
        if self.concat_project is not None:
            of_queries, of_keys = self.concat_project.weight.flatten(1).chunk(2, dim=1)
            pairs = F.linear(queries, of_queries) + F.linear(keys, of_keys).transpose(1, 2)
            return F.relu(pairs) / keys.shape[1]
        wide = torch.promote_types(queries.dtype, torch.float32)
        products = queries.to(wide) @ keys.to(wide).transpose(1, 2)
        if self.mode == "dot_product":
            return (products / keys.shape[1]).to(queries.dtype)
        return (products * self._scale()).softmax(2).to(queries.dtype)

    def _scale(self) -> float:
        """Return what logits are multiplied by before the softmax."""
        is_scaled = self.mode == "embedded_gaussian" and self.use_scale
        return float(self.inter_channels**-0.5) if is_scaled else 1.0


def _tokens(x: Tensor) -> Tensor:
    """Return features as rows of positions, (N, L, C); no copy if x is channels-last."""
    return x.flatten(2).transpose(1, 2).contiguous()


def _convolve(conv: nn.Conv2d, tokens: Tensor) -> Tensor:
    """Return the 1x1 convolution of rows of positions: (N, L, in) -> (N, L, out)."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


def _sub_sample(tokens: Tensor, x: Tensor) -> Tensor:
    """Return rows max-pooled two by two where they lie in x: (N, L, d) -> (N, M, d)."""
    key_positions(x.shape[2:], sub_sample=True)
    picture = tokens.reshape(x.shape[0], *x.shape[2:], -1).movedim(3, 1)
    return F.max_pool2d(picture, 2).flatten(2).transpose(1, 2)


def _multiply(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the dot products of queries and keys over M, times the values: (N, L, d).

    The product of three matrices is taken in the order with fewer operations; in an export, which
    must do for all sizes, in the order that never holds a pair of positions.
    """
    n_queries, n_keys, width = queries.shape[1], keys.shape[1], keys.shape[2]
    keys = keys / n_keys  # Before the sum, which could overflow in half precision.
    if torch.compiler.is_exporting() or 2 * n_queries * n_keys >= (n_queries + n_keys) * width:
        return queries @ (keys.transpose(1, 2) @ values)
    return (queries @ keys.transpose(1, 2)) @ values
