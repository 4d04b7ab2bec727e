"""Which specialisations of the Triton kernels exist: the launches of all samples, recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from fastloss._triton import _common
from torch import Tensor

from fastloss._library import OPS
from fastloss.testing import Sample, capture, samples

TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64",
    torch.int64: "i64", torch.int32: "i32", torch.int16: "i16", torch.int8: "i8",
    torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip
DTYPES = tuple(TYPES)[:4]
# Powers of these exponents, and these factors, are other code than the powers of all other numbers.
SPECIAL = (0.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Case:
    """A specialisation to compile; `sizes` are those it is for: "any", "odd" or "16 k"."""

    module: str
    kernel: str
    label: str
    dtype: str
    main: bool
    sizes: str
    types: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]  # arguments that 16 divides
    num_warps: int
    maxnreg: int | None

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.kernel, self.label, self.dtype)))

    def key(self) -> tuple[Any, ...]:
        """What is compiled, where a typical number stands for all others."""
        constants = {
            name: (value < 0, value if value in SPECIAL else "other")
            if isinstance(value, float)
            else str(value)
            for name, value in self.constants.items()
        }
        return (
            self.kernel, *self.types.items(), *sorted(constants.items()), self.aligned,
            self.num_warps, self.maxnreg,
        )  # fmt: skip


def _specialise(
    kernel: Any, values: dict[str, Any], odd: bool
) -> tuple[dict[str, str], dict[str, Any], tuple[str, ...]]:
    """Types, constants and aligned arguments as the JIT chooses them, for sizes that are large."""
    types, constants, aligned = {}, {}, []
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        free = not parameter.do_not_specialize
        if parameter.is_constexpr or (free and type(value) is int and value == 1):
            types[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            types[name] = f"*{TYPES[value.dtype]}"
            aligned += [name] * free
        else:
            types[name] = parameter.annotation_type or (
                "i32" if -(2**31) <= value < 2**31 else "i64"
            )
            aligned += [name] * (free and (value == 0 or not odd))
    return types, constants, tuple(aligned)


def _label(op: str, arguments: tuple[Any, ...]) -> str:
    """The options of a call that choose its formula: strings, and switches that are on."""
    schema = getattr(torch.ops.fastloss, op).default._schema
    named = {a.name: value for a, value in zip(schema.arguments, arguments)}
    words = [v for k, v in named.items() if isinstance(v, str) and k != "reduction"]
    data = ("widen", "per_image")  # no kernel is compiled for these
    return " ".join(words + [k for k, v in named.items() if v is True and k not in data])


def _is_repeated(op: str, arguments: tuple[Any, ...], dtype: torch.dtype) -> bool:
    """Whether a segmentation loss of few terms is left to another dtype: the formulas of the table
    are the same for all half precision, those of the loss are in float64 for all."""
    if op.startswith("segmentation_loss"):
        kinds = next(a for a in arguments if isinstance(a, list))
        return len(kinds) == 1 and dtype != torch.float32
    if op.startswith("segmentation_table"):
        statistics = next(a for a in arguments if isinstance(a, int))
        return statistics.bit_count() <= 3 and dtype in (torch.float16, torch.float64)
    return False


def _calls() -> Iterator[tuple[str, tuple[Any, ...], torch.dtype]]:
    """The op calls of a sample of each form: function, options, shapes of what may be absent."""
    chosen: dict[tuple[Any, ...], Sample] = {}
    for sample in samples():
        # The numbers of columns make tiles of other shapes; one kind of similarity has them all.
        whole = ("weight", "boxes2") if sample.options.get("kind") == "giou" else ("weight",)
        forms = (
            (name, v.shape if name in whole else v.dim(), v.is_floating_point())
            if isinstance(v, Tensor)
            else (name, type(v))
            for name, v in sample.inputs.items()
        )
        if not {"large", "edge"} & sample.tags or "apart" in sample.tags:
            key = (sample.function, *sorted(map(str, sample.options.items())), *forms)
            chosen[key] = sample
    for sample in chosen.values():
        for dtype in DTYPES:
            with capture() as calls:
                sample.cast(dtype).run()
                sample.cast(dtype).run(only_first=True)
            for op, arguments in calls:
                if _is_repeated(op, arguments, dtype):
                    continue
                yield op, arguments, dtype
                if op == "pairwise_iou_backward":  # the gradient of a sum
                    yield (
                        op,
                        (arguments[0][..., :1, :1].expand_as(arguments[0]), *arguments[1:]),
                        dtype,
                    )


def _of_launch(
    kernel: Any,
    values: dict[str, Any],
    options: tuple[int, int | None],
    label: str,
    dtype: torch.dtype,
) -> list[Case]:
    """One case for all large sizes, or one for the odd ones and one for multiples of 16."""
    module = kernel.fn.__module__
    strided = any(k.endswith("_MODE") and v == 2 for k, v in values.items())
    strided |= values.get("DENSE") is False or values.get("x_p", 1) != 1
    strided |= values.get("pixels") == 1
    main = not strided and not values.get("HAS_AVG_FACTOR") and dtype != torch.float64
    odd, even = (
        Case(
            module, kernel.__name__, label, TYPES[dtype], main, sizes,
            *_specialise(kernel, values, sizes == "odd"), *options,
        )
        for sizes in ("odd", "16 k")
    )  # fmt: skip
    return [replace(odd, sizes="any")] if odd.key() == even.key() else [odd, even]


def cases() -> list[Case]:
    """Every distinct specialisation."""
    found: dict[tuple[Any, ...], Case] = {}
    now: tuple[str, tuple[Any, ...], torch.dtype]

    def record(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
        options = constants.pop("num_warps", _common.NUM_WARPS), constants.pop("maxnreg", None)
        values = dict(zip(kernel.arg_names, args)) | constants
        op, arguments, dtype = now
        own = op.startswith(kernel.fn.__module__.rpartition(".")[2])  # not one for all stems
        for case in _of_launch(
            kernel, values, options, _label(op, arguments) if own else "", dtype
        ):
            found.setdefault(case.key(), case)

    launch, _common.launch = _common.launch, record
    try:
        for now in _calls():
            implementation = OPS[now[0]].implementations.get("triton")
            if implementation is not None:
                implementation(*now[1])
    finally:
        _common.launch = launch
    return list(found.values())


def cover(every: list[Case]) -> list[Case]:
    """A few cases of each formula that have between them every value of every constant and every
    type; on the main path for each dtype, elsewhere for all together."""
    groups: dict[tuple[Any, ...], list[Case]] = {}
    for case in every:
        group = (case.kernel, case.label, case.sizes, case.dtype if case.main else None)
        groups.setdefault(group, []).append(case)
    chosen = []
    for group in groups.values():
        features = {id(case): set(case.key()) for case in group}
        missing = set().union(*features.values())
        while missing:
            best = max(group, key=lambda case: len(features[id(case)] & missing))  # noqa: B023
            missing -= features[id(best)]
            chosen.append(best)
    return chosen
