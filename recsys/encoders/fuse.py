"""Rewrite a network for inference on a CPU: one oneDNN call for a layer with its batch norm and activation.

Eager PyTorch runs these one after another, each through memory, and packs the weights anew in every call. Here the
batch norm is folded into the weights, the activation rides in the product's last loop, and the weights are packed once.
These are the calls that torch.compile's own CPU backend emits; unlike it, nothing here needs a C++ compiler.

In bfloat16 the early spatial filters decide the accuracy: product photos are mostly flat background, where a rounded
filter errs the same way in every pixel and nothing averages out. So filters that give at least a quarter of the input's
pixels (stride 2 or less) stay in float32. The rest is rounded to bfloat16 with care: a spatial filter keeps its sum,
which leaves flat regions right, and every filter the mean of its output. Products are summed in float32 throughout.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

# activation → its name and numbers in oneDNN's post-operations
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}


def fused_calls_exist() -> bool:
    """Whether this build of torch has the oneDNN calls."""
    names = ("_convolution_pointwise", "_reorder_convolution_weight", "_linear_pointwise", "_reorder_linear_weight")
    return bool(torch.backends.mkldnn.is_available()) and all(  # type: ignore[no-untyped-call]
        hasattr(torch.ops.mkldnn, name) for name in names
    )


def fuse_convolutions(model: nn.Module, example: Tensor, bfloat16: bool) -> fx.GraphModule | None:
    """A copy of ``model`` whose convolutions are fused and packed; the model itself stays as it is.

    Args:
        model: in eval mode.
        example: float32 [batch, 3, size, size], such as the model will see: the packing is tuned for its shape (other
            batches work too), and what bfloat16 rounds off is made up for at its mean.
        bfloat16: compute in bfloat16 where it does no harm (see above).
    Returns:
        None where the model cannot be traced, or has no convolution followed by a batch norm.
    """
    try:
        graph = _Tracer().trace(model)
        traced = fx.GraphModule(model, graph)
        with torch.inference_mode():
            _Recorder(traced).propagate(example)
    except Exception:  # models with control flow on tensors; fx raises what it meets
        return None
    modules = dict(traced.named_modules())
    replaced: list[nn.BatchNorm2d | None] = []
    for node in list(graph.nodes):
        found = _find_layer(node, modules)
        if found is None:
            continue
        convolution, norm, activation, chain = found
        source, result = cast(fx.Node, chain[0].args[0]), chain[0].meta["tensor_meta"].shape
        early = (
            max(convolution.kernel_size) > 1 and 4 * result[-1] * result[-2] >= example.shape[-1] * example.shape[-2]
        )
        dtype = torch.float32 if early or not bfloat16 else torch.bfloat16
        shape = tuple(source.meta["tensor_meta"].shape)
        try:
            fused = FusedConvolution(convolution, norm, activation, shape, source.meta["mean"], dtype)
        except ValueError:
            continue
        name = f"fused_{len(replaced)}"
        replaced.append(norm)
        traced.add_module(name, fused)
        with graph.inserting_after(chain[-1]):
            replacement = graph.call_module(name, (source,))
        replacement.meta = dict(chain[-1].meta)
        chain[-1].replace_all_uses_with(replacement)
        for dead in reversed(chain):
            graph.erase_node(dead)
    if not any(replaced):
        return None
    traced.delete_all_unused_submodules()
    graph.lint()
    traced.recompile()
    return traced


def _find_layer(
    node: fx.Node, modules: dict[str, Any]
) -> tuple[nn.Conv2d, nn.BatchNorm2d | None, nn.Module, list[fx.Node]] | None:
    """A convolution, the norm and the activation that alone use it, and their nodes; None where it cannot be fused."""
    convolution = modules.get(str(node.target)) if node.op == "call_module" else None
    if not isinstance(convolution, nn.Conv2d) or convolution.padding_mode != "zeros":
        return None
    chain, norm = [node], None
    following = _only_user(node, modules)
    if following is not None and isinstance(following[1], nn.BatchNorm2d):
        norm = following[1]
        chain.append(following[0])
        following = _only_user(chain[-1], modules)
    if not isinstance(getattr(norm, "drop", nn.Identity()), nn.Identity):
        return None
    activation = getattr(norm, "act", None)  # timm's norm layers carry their activation
    if activation is None and following is not None and type(following[1]) in _ACTIVATIONS:
        activation = following[1]
        chain.append(following[0])
    activation = activation or nn.Identity()
    return (convolution, norm, activation, chain) if type(activation) in _ACTIVATIONS else None


class FusedConvolution(nn.Module):
    """act(norm(convolution(x))) in one call, for inference only.

    Args:
        convolution: zero-padded, or one of timm's that pad as TensorFlow does ("same").
        norm: folded into the weights; None for none.
        activation: one of _ACTIVATIONS.
        shape: of the input, [batch, channels, height, width].
        mean: of the input, float32 [channels].
        dtype: of the weights and of the output.
    Raises:
        ValueError: the padding cannot be had from one call.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        activation: nn.Module,
        shape: tuple[int, ...],
        mean: Tensor,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        folded = convolution if norm is None else fuse_conv_bn_eval(convolution, norm)
        weight, padding = _explicit_padding(folded, type(convolution).__name__ == "Conv2dSame", shape)
        self.dtype = dtype
        self.arguments = (padding, list(folded.stride), list(folded.dilation), folded.groups)
        self.activation = _ACTIVATIONS[type(activation)]
        weight, bias = weight.detach(), None if folded.bias is None else folded.bias.detach()
        if dtype == torch.bfloat16:
            weight = _round_weights(weight, bias, mean, folded.groups)
        weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.arguments, list(shape))
        self.bias = None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """float32 or bfloat16 [n, c, h, w] → ``dtype`` [n, c', h', w']."""
        name, numbers = self.activation
        return cast(
            Tensor,
            torch.ops.mkldnn._convolution_pointwise(
                x.to(self.dtype), self.weight, self.bias, *self.arguments, name, numbers, ""
            ),
        )


def _explicit_padding(convolution: nn.Conv2d, same: bool, shape: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Weight and symmetric padding that give what the layer gives.

    TensorFlow's "same" pads one pixel more at the end than at the start where it cannot split evenly. oneDNN's call
    pads both sides alike, so the filter gets a first row and column of zeros and the start is padded by one more: the
    same sums, without a copy of the picture.
    """
    weight = convolution.weight
    if not same:
        if isinstance(convolution.padding, str):
            raise ValueError(convolution.padding)
        return weight, [int(side) for side in convolution.padding]
    padding, grown = [], [0, 0]
    for axis in (0, 1):
        extent, stride = shape[2 + axis], convolution.stride[axis]
        reach = (convolution.kernel_size[axis] - 1) * convolution.dilation[axis] + 1
        total = max((-(-extent // stride) - 1) * stride + reach - extent, 0)
        if total % 2 and convolution.dilation[axis] != 1:
            raise ValueError("odd padding of a dilated filter")
        grown[axis] = total % 2
        padding.append((total + 1) // 2)
    return nn.functional.pad(weight, (grown[1], 0, grown[0], 0)), padding


def _round_filters(weight: Tensor) -> Tensor:
    """Round to bfloat16 so that the weights of each spatial filter keep their sum.

    From the largest weight to the smallest, each takes on the rounding error of those before; small ones have the finer
    steps, so hardly anything is left at the end.

    Args:
        weight: float32 [out, in, height, width].
    Returns:
        bfloat16 of the same shape.
    """
    filters = weight.double().flatten(2)
    rounded = torch.empty_like(filters)
    error = torch.zeros_like(filters[..., :1])
    order = filters.abs().argsort(dim=-1, descending=True)
    for step in range(order.shape[-1]):
        place = order[..., step : step + 1]
        wanted = filters.gather(-1, place) + error
        rounded.scatter_(-1, place, wanted.bfloat16().double())
        error = wanted - wanted.bfloat16().double()
    return rounded.bfloat16().view_as(weight)


def _round_weights(weight: Tensor, bias: Tensor | None, mean: Tensor, groups: int) -> Tensor:
    """Round to bfloat16 so that the layer gives, at the mean of its input, what it gave before rounding.

    The bias has to be bfloat16 too, and its error shifts a whole channel. Eight weights of each filter, from the one
    whose last bit moves the output most to the one that hardly does, take on what is left of it and of the other
    weights' errors, each at most one bit. (Correcting the shift that rounding causes: Nagel et al. 2019,
    arXiv:1906.04721, section 4.2.)

    Args:
        weight: float32 [out, in / groups, height, width].
        bias: float32 [out].
        mean: of the input, float32 [in].
    Returns:
        bfloat16 of the weight's shape.
    """
    exact, rounded = weight.double().flatten(1), _round_filters(weight).double().flatten(1)
    inputs = mean.double().view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    inputs = inputs.repeat_interleave(weight.shape[2] * weight.shape[3], 1)
    error = ((exact - rounded) * inputs).sum(1, keepdim=True)
    if bias is not None:
        error += (bias.double() - bias.bfloat16().double()).unsqueeze(1)
    order = (rounded * inputs).abs().argsort(dim=1, descending=True)
    for rank in torch.linspace(0, order.shape[1] - 1, min(8, order.shape[1])).long():
        place = order[:, rank : rank + 1]
        before, each = rounded.gather(1, place), inputs.gather(1, place)
        wanted = torch.where(each.abs() > 1e-3, error / each, 0.0)
        bit = before.abs() * 2**-7
        after = (before + wanted.clamp(-bit, bit)).bfloat16().double()
        rounded.scatter_(1, place, after)
        error -= (after - before) * each
    return rounded.bfloat16().view_as(weight)


class _Recorder(ShapeProp):
    """Runs the network and notes each step's shape, and the mean of its output by channel."""

    def run_node(self, node: fx.Node) -> Any:
        result = super().run_node(node)
        if isinstance(result, Tensor) and result.ndim == 4:
            node.meta["mean"] = result.mean((0, 2, 3))
        return result


class _Tracer(fx.Tracer):
    """Sees every convolution and norm as one step, timm's subclasses of them too."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(module, qualified_name)


def _only_user(node: fx.Node, modules: dict[str, Any]) -> tuple[fx.Node, nn.Module] | None:
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    return users[0], modules[str(users[0].target)]


def pack_linears(model: nn.Module, rows: int) -> Callable[[], None]:
    """Replace every bfloat16 linear layer by its packed form, and where BERT's family follows one by GELU, fuse that.

    Args:
        model: changed in place.
        rows: of the products that the packing is tuned for.
    Returns:
        What puts the model back as it was.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(parent: nn.Module, name: str, child: nn.Module) -> None:
        replaced.append((parent, name, getattr(parent, name)))
        setattr(parent, name, child)

    for parent in list(model.modules()):
        activation = getattr(parent, "intermediate_act_fn", None)
        gelu = type(activation).__name__ in ("GELU", "GELUActivation") and isinstance(activation, nn.Module)
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.bfloat16:
                replace(parent, name, PackedLinear(child, rows, gelu and name == "dense"))
                if gelu and name == "dense":
                    replace(parent, "intermediate_act_fn", nn.Identity())

    def restore() -> None:
        for parent, name, child in reversed(replaced):
            setattr(parent, name, child)

    return restore


class PackedLinear(nn.Module):
    """x·Wᵀ + b, then the exact GELU if asked for, for inference only."""

    def __init__(self, linear: nn.Linear, rows: int, gelu: bool) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = ("gelu", "none") if gelu else ("none", "")

    def forward(self, x: Tensor) -> Tensor:
        """bfloat16 [..., in] → bfloat16 [..., out]."""
        name, kind = self.activation
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], kind))
