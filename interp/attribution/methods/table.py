"""The table of methods: where each lives and what it promises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from interp.core.errors import ConfigError, MissingDependency
from interp.core.settings import check_choice

if TYPE_CHECKING:
    from interp.attribution.methods.raw import Engine


@dataclass(frozen=True)
class Row:
    """One method."""

    place: str
    """`module:function` of its engine."""
    complete: bool
    """Whether its scores sum to f(x) - f(r), up to what it measures as its error."""
    signed: bool
    """Whether the sign means for or against."""
    about: str
    """One clause for the report."""
    reads: tuple[str, ...] = ()
    """Fields of `AttributionConfig` that it reads beside those that all do (`READ_BY_ALL`)."""
    along_inputs: bool = False
    """Whether its path runs at the model's embeddings, wherever the site is that it scores."""
    keeps: str = "nothing"
    """What it keeps of a pass, by which `budget` knows its memory: of many rows nothing or `gradients`;
    of one a `gradient`, `differences`, `relevance`, or `patterns`."""


_E, _G = "interp.attribution.methods.engines", "interp.attribution.methods.gradients"
_D, _L = "interp.attribution.methods.deeplift", "interp.attribution.methods.relevance"
_A, _N = "interp.attribution.methods.attention", "interp.attribution.methods.noisy"
_S, _C = "interp.attribution.methods.sampling", "interp.attribution.methods.conductance"
READ_BY_ALL = ("tolerance", "rows", "seed", "units", "patch")
METHODS: dict[str, Row] = {
    "integrated_gradients": Row(
        f"{_G}:integrated_gradients",
        True,
        True,
        "gradients along the path from the baseline",
        ("max_nodes",),
        keeps="gradients",
    ),
    "gradient_x_input": Row(f"{_E}:gradient_x_input", False, True, "first-order Taylor", keeps="gradient"),
    "saliency": Row(f"{_E}:saliency", False, False, "size of the gradient", keeps="gradient"),
    "smoothgrad": Row(
        f"{_N}:smoothgrad",
        False,
        False,
        "gradient averaged over noise",
        ("samples", "noise"),
        keeps="gradients",
    ),
    "gradient_shap": Row(
        f"{_N}:gradient_shap",
        False,
        True,
        "gradients at random points of the path",
        ("samples", "noise"),
        keeps="gradients",
    ),
    "deeplift": Row(
        f"{_D}:deeplift", True, True, "finite differences propagated exactly", keeps="differences"
    ),
    "deeplift_reveal_cancel": Row(
        f"{_D}:reveal_cancel",
        True,
        True,
        "DeepLIFT with positive and negative parts kept apart",
        keeps="differences",
    ),
    "captum_deeplift": Row(
        f"{_E}:captum_deeplift", True, True, "captum's DeepLIFT (Rescale)", keeps="differences"
    ),
    "layer_conductance": Row(
        f"{_C}:layer_conductance",
        False,
        True,
        "flow of the embeddings' path through a unit",
        ("max_nodes",),
        along_inputs=True,
        keeps="gradients",
    ),
    "occlusion": Row(
        f"{_E}:occlusion", False, True, "a window of neighbours hidden", ("window", "max_forward")
    ),
    "feature_ablation": Row(f"{_E}:feature_ablation", False, True, "one position hidden", ("max_forward",)),
    "shapley": Row(
        f"{_S}:shapley", True, True, "average effect over random orders", ("samples", "max_forward")
    ),
    "kernel_shap": Row(
        f"{_S}:kernel_shap", True, True, "Shapley values by regression", ("samples", "max_forward")
    ),
    "lime": Row(f"{_S}:lime", False, True, "a sparse local linear model", ("samples",)),
    "lrp_epsilon": Row(
        f"{_L}:epsilon_rule", False, True, "relevance, epsilon rule", ("epsilon",), keeps="relevance"
    ),
    "lrp_gamma": Row(
        f"{_L}:gamma_rule", False, True, "relevance, gamma rule", ("epsilon", "gamma"), keeps="relevance"
    ),
    "lrp_alpha_beta": Row(
        f"{_L}:alpha_beta_rule",
        False,
        True,
        "relevance, alpha-beta rule",
        ("epsilon", "alpha"),
        keeps="relevance",
    ),
    "attn_lrp": Row(
        f"{_L}:attention_rule", False, True, "relevance through attention", ("epsilon",), keeps="relevance"
    ),
    "functional_information": Row(
        f"{_N}:functional_information",
        False,
        False,
        "gradient energy under noise, over the output",
        ("samples", "noise"),
        keeps="gradients",
    ),
    "attention": Row(f"{_A}:last_attention", False, False, "attention of the last layer", keeps="patterns"),
    "attention_rollout": Row(
        f"{_A}:rollout", False, False, "attention multiplied over layers", keeps="patterns"
    ),
    "attention_flow": Row(f"{_A}:flow", False, False, "largest flow through attention", keeps="patterns"),
}

WITHOUT_GRADIENTS = set(
    """
    occlusion feature_ablation shapley kernel_shap lime attention attention_rollout attention_flow
    """.split()
)
"""Methods that only look: they run where torch keeps no gradients."""


def method_row(name: str) -> Row:
    """The row of a method.

    Raises:
        ConfigError: No such method; names the nearest.
    """
    check_choice("method", name, METHODS)
    return METHODS[name]


def refuse_unread(methods: Iterable[str], options: Iterable[str]) -> None:
    """Refuse options that none of the methods reads.

    Raises:
        ConfigError: Naming the option, and the methods that read it.
    """
    rows = {name: method_row(name) for name in methods}
    read = {*READ_BY_ALL, *(field for row in rows.values() for field in row.reads)}
    for option in options:
        if option not in read:
            raise ConfigError(
                f"{option} means nothing to {', '.join(rows)}",
                got=option,
                expected=", ".join(sorted(read)),
                fix=f"leave it out; {', '.join(m for m in METHODS if option in METHODS[m].reads)} read it",
            )


def engine_of(name: str) -> Engine:
    """The engine of a method; its module (captum, scipy) is imported now and not before.

    Raises:
        MissingDependency: A package that this method needs is not installed.
    """
    module, _, function = method_row(name).place.partition(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        package = (error.name or "captum").partition(".")[0]
        raise MissingDependency(
            f"the attribution method {name!r} needs {package}", fix=f"pip install {package}"
        ) from error
