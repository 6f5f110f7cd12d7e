"""Multi-head attention whose projections are layers that are called, so that masks act on them.

``nn.MultiheadAttention`` keeps the input projection as a bare parameter, hands both projections to
a function, and in evaluation may run in a fused kernel that reads them directly. Here both are
linear layers like any other; the state dict keeps the keys of ``nn.MultiheadAttention``.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

PROJECTIONS = ("in_proj", "out_proj")


class CalledAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` that calls its projections.

    Attributes:
        in_proj: Linear layer to queries, keys and values, 3 E outputs in this order; its state-dict
            keys are ``in_proj_weight`` and ``in_proj_bias``.
        out_proj: Linear layer of E outputs.
    """

    in_proj: nn.Linear

    @classmethod
    def from_dense(cls, dense: nn.MultiheadAttention) -> "CalledAttention":
        """Return attention that shares the parameters of ``dense``."""
        biased = dense.in_proj_bias is not None
        attention = cls(
            dense.embed_dim,
            dense.num_heads,
            dense.dropout,
            biased,
            batch_first=dense.batch_first,
            device="meta",
        )
        width = dense.embed_dim
        # without these torch's encoder layers cannot take the fused kernel, which bypasses masks
        attention.register_parameter("in_proj_weight", None)
        attention.register_parameter("in_proj_bias", None)
        del attention.out_proj  # to come after in_proj, as its parameters do in the state dict
        attention.in_proj = nn.Linear(width, 3 * width, biased, device="meta")
        attention.in_proj.weight = dense.in_proj_weight
        attention.in_proj.bias = dense.in_proj_bias
        attention.out_proj = _linear_like(dense.out_proj, nn.Linear)
        return attention.train(dense.training)

    def to_dense(self) -> nn.MultiheadAttention:
        """Return ``nn.MultiheadAttention`` that shares the parameters; masks are not looked at."""
        dense = nn.MultiheadAttention(
            self.embed_dim,
            self.num_heads,
            self.dropout,
            self.in_proj.bias is not None,
            batch_first=self.batch_first,
            device="meta",
        )
        for name, parameter in self.in_proj.named_parameters(recurse=False):
            if name != "scores":
                dense.register_parameter(f"in_proj_{name}", parameter)
        dense.out_proj = _linear_like(self.out_proj, NonDynamicallyQuantizableLinear)
        return dense.train(self.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what attention mixes, shaped as ``query``, and its weights or None.

        Args:
            query: (N, L, E) if ``batch_first``, (L, N, E) if not, or (L, E) of one sequence.
            key: The same with S in place of L.
            value: The same as ``key``.
            key_padding_mask: (N, S); bool, True is left out, or float, added to the logits.
            need_weights: Return the weights too, (N, L, S).
            attn_mask: (L, S) or (N * heads, L, S); bool, True is left out, or float, added.
            average_attn_weights: Weights are means over heads; else (N, heads, L, S).
            is_causal: A hint that ``attn_mask`` is causal, which is not needed here.
        """
        whole = query.dim() == 3
        q, k, v = (self._heads(part, whole) for part in self._project(query, key, value))
        bias = self._bias(key_padding_mask, attn_mask, q, k)
        weights = None
        if need_weights:
            logits = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = (logits if bias is None else logits + bias).softmax(-1)
            mixed = functional.dropout(weights, self.dropout, self.training) @ v
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, bias, dropout)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not whole:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Tensor]:
        """Yield projected queries, keys and values; one call where all three are one tensor."""
        called: dict[int, tuple[Tensor, ...]] = {}
        for place, tensor in enumerate((query, key, value)):
            if id(tensor) not in called:
                called[id(tensor)] = self.in_proj(tensor).chunk(3, -1)
            yield called[id(tensor)][place]

    def _heads(self, part: Tensor, whole: bool) -> Tensor:
        """Return (N, heads, L, E / heads)."""
        if not whole:
            part = part.unsqueeze(0)
        elif not self.batch_first:
            part = part.transpose(0, 1)
        return part.view(*part.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _bias(
        self, padding: Tensor | None, mask: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """Return what is added to the logits, of a shape that broadcasts to (N, heads, L, S)."""
        parts = [] if padding is None else [padding.view(-1, 1, 1, k.shape[-2])]
        if mask is not None:
            heads = (-1, self.num_heads, *mask.shape[1:])
            parts.append(mask if mask.dim() == 2 else mask.view(heads))
        added = [
            q.new_zeros(p.shape).masked_fill(p, -torch.inf) if p.dtype == torch.bool else p
            for p in parts
        ]
        return sum(added[1:], added[0]) if added else None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state under the keys of ``nn.MultiheadAttention``, masks beside them."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in ("weight", "bias"):
            if f"{prefix}in_proj.{name}" in state:
                state[f"{prefix}in_proj_{name}"] = state.pop(f"{prefix}in_proj.{name}")
        return state

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take the keys of ``nn.MultiheadAttention``; where no mask is stored, keep everything.

        Version 0.1.0 left attention dense, so its files have no masks of it. A hook that torch
        offers for this would not survive copying.
        """
        for name in ("weight", "bias"):
            if f"{prefix}in_proj_{name}" in state_dict:
                state_dict[f"{prefix}in_proj.{name}"] = state_dict.pop(f"{prefix}in_proj_{name}")
        for name in PROJECTIONS:
            mask = getattr(getattr(self, name), "mask", None)
            if mask is not None and f"{prefix}{name}.scores" not in state_dict:
                state_dict.setdefault(f"{prefix}{name}.mask", torch.ones_like(mask))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _linear_like(layer: nn.Linear, kind: type[nn.Linear]) -> Any:  # mypy: out_proj's own class
    linear = kind(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    linear.weight, linear.bias = layer.weight, layer.bias
    return linear.train(layer.training)


def can_be_called(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Return whether a module is attention that :class:`CalledAttention` can stand in for."""
    return (
        type(module) is nn.MultiheadAttention
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


def attention_projections(module: nn.Module) -> set[str]:
    """Return the names of all projections of called attention below ``module``."""
    return {
        f"{name}.{projection}" if name else projection
        for name, child in module.named_modules()
        if isinstance(child, CalledAttention)
        for projection in PROJECTIONS
    }
