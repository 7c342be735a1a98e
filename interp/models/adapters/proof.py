"""The adapter proves itself: on a few tokens, before anybody believes a name.

1. With every site tapped the output equals the raw model's.
2. Every listed site fires exactly once; what is never reached is refused, with the reason.
3. What names promise holds as arithmetic: resid_pre + attn_out = resid_mid, pattern · v = z, and
   so on. A site that breaks its promise is refused rather than approximately named.

The first who asks for a site runs the proof; at load the model only has to run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.core.errors import AdapterError, ModelError
from interp.core.foreign import one_line
from interp.models.adapters.effective import plain, refuse_replaced
from interp.models.adapters.huggingface import UNREACHED
from interp.models.adapters.norms import norm_parts
from interp.models.adapters.once import numberless, run_plain, undisturbed
from interp.models.hooked import HookedModel
from interp.models.hooks.plan import requests
from interp.models.hooks.runs import Run
from interp.models.hooks.taps import Request
from interp.models.outputs import main_output
from interp.models.text.prepared import Prepared

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
"""Relative to the largest value compared."""
BATCH, POS = 2, 5


Outputs = dict[torch.nn.Module, list[Tensor]]
"""What modules gave, call by call."""


class FirstRun(NamedTuple):
    """What a wrapped model was given, and what it made of it."""

    ready: Prepared
    raw: Any


def prove(model: HookedModel) -> bool:
    """Check a wrapped model; sites that are not what their names say are refused from then on.

    Returns:
        Whether anything was learned: not of a model that gives no numbers (NaN, infinity).

    Raises:
        AdapterError: The output changes when sites are tapped.
        ModelError: Modules were exchanged since.
    """
    adapter = model.adapter
    refuse_replaced(adapter.links, adapter.cfg.model_name)
    learned = False
    if numberless(model.module):
        return learned
    try:
        with undisturbed(model._frame, adapter.hooks):
            first = first_run(model)
            raw = main_output(first.raw)
            if not isinstance(raw, Tensor) or bool(raw.isfinite().any()):
                _prove(model, first.ready, raw)
                learned = True
    finally:
        if not learned:  # a map that somebody may have begun to strike names from
            model._sites = None
    return learned


def _prove(model: HookedModel, ready: Prepared, raw: Any) -> None:
    taps, tapped, normed = _tapped(model, ready)
    if _refuse_unreached(model, taps):
        taps, tapped, normed = _tapped(model, ready)
    crossed = _with_encoder_states(model, ready)
    tolerance = TOLERANCE.get(model.cfg.dtype, 6e-2)
    if isinstance(raw, Tensor) and not close(tapped, raw, tolerance):
        raise AdapterError(
            f"the adapter changes what {model.cfg.model_name} computes; its sites are refused",
            got=f"outputs differ by up to {float((tapped - raw).abs().max()):.2e}",
            expected=f"a relative difference below {tolerance:g}",
            fix="wrap(module, check=False) names the modules anyway; please report this",
        )
    _refuse_silent(model, taps)
    _mark_volatile(model, taps)
    values = {name: tap.value for name, tap in taps.items() if tap.value is not None}
    for seen in (values, crossed):
        for site, reason in _broken_promises(model, seen, tolerance):
            model.adapter.refused[site] = reason
    _refuse_other_norms(model, values, normed, max(tolerance, TOLERANCE["float32"]))
    _prove_head(model, values, raw, tolerance)
    for name in model.adapter.refused:
        for known in (model.sites.listed, model.adapter.sites, model.sites.unlisted):
            known.pop(name, None)


def first_run(model: HookedModel, loading: bool = False) -> FirstRun:
    """Inputs that the raw module runs, and what it makes of them.

    Args:
        loading: Two tokens a row are enough to see that it runs; where several rows fail and one
            does not, it takes one row at a time from then on.

    Raises:
        Exception: What the forward raised.
    """
    inputs, padding = probe_inputs(model), model._intake.padding
    if not loading:
        return _run(model, _first_row(inputs) if padding.alone else inputs)
    if model._intake.reads_ids:
        inputs = {k: v[:, :2] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:, :2]
    try:
        return _run(model, inputs)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # says nothing about rows
    except Exception as error:  # whatever a strange forward raises
        found = _run(model, _first_row(inputs))
        padding.alone = one_line(error, 120)
        return found


def _run(model: HookedModel, inputs: Any) -> FirstRun:
    ready = model._intake.prepare(inputs, {}, None)
    return FirstRun(ready, run_plain(model.module, ready.args, ready.kwargs))


def runs(model: HookedModel) -> bool:
    """Whether a freshly wrapped model runs at all.

    One that cannot run the tokens tried here is taken as it is, and says so: it may need other inputs
    (several choices per question).
    """
    try:
        with undisturbed(model._frame, model.adapter.hooks):
            first_run(model, loading=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        why = one_line(error, 120)
        model.adapter.unproved, model.adapter.exact_once = why, False
        model.adapter.notes.append(f"its sites are not proved: {why}")
        return False
    return True


def _first_row(inputs: Any) -> Any:
    return {k: v[:1] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:1]


def probe_inputs(model: HookedModel) -> Any:
    """A few tokens (or two small images) that any model of this kind can read."""
    if model.adapter.probe is not None:
        return {k: v.to(model.device) for k, v in model.adapter.probe().items()}
    if model.adapter.inputs == "pixels":
        config: Any = model.module.config
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        shape = (BATCH, config.num_channels, size, size)
        dtype = getattr(torch, model.cfg.dtype)
        return torch.linspace(-1, 1, BATCH * shape[1] * size * size).reshape(shape).to(dtype)
    vocabulary = model.cfg.d_vocab
    length = min(POS, model.cfg.n_ctx or POS)
    # From the upper half of the vocabulary: padding and other special ids sit at the bottom.
    ids = vocabulary // 2 + torch.arange(BATCH * length) * 7 % max(vocabulary - vocabulary // 2, 1)
    ids = ids.reshape(BATCH, length)
    if model.adapter.inputs == "encoder_decoder":
        return {"input_ids": ids, "decoder_input_ids": ids[:, :-1].contiguous()}
    return ids


def _every_site(model: HookedModel) -> dict[str, Request]:
    results = [n for n, site in model.sites.unlisted.items() if site.kind == "result"]
    results = [n for n in results if n.replace("hook_result", "hook_z") in model.sites.listed]
    names = [*model.sites, *results]
    return requests(model.sites, names, keep=lambda value, tap: value.clone())


def _with_encoder_states(model: HookedModel, ready: Prepared) -> dict[str, Tensor]:
    """Every site once more where cross-attention runs too; nothing for models without it."""
    more = [n for n in model.sites.unlisted if "cross" in n or n.endswith("hook_resid_mid")]
    if not any(n.endswith("hook_cross_attn_out") for n in more):
        return {}
    states = torch.linspace(-1, 1, BATCH * 3 * model.cfg.d_model).reshape(BATCH, 3, -1)
    states = states.to(model.device, getattr(torch, model.cfg.dtype))
    taps = requests(model.sites, [*model.sites, *more], keep=lambda value, tap: value.clone())
    with Run(model._frame, taps, model.splices):
        run_plain(model.module, ready.args, {**ready.kwargs, "encoder_hidden_states": states})
    _refuse_silent(model, taps)
    return {name: tap.value for name, tap in taps.items() if tap.value is not None}


def _tapped(model: HookedModel, ready: Prepared) -> tuple[dict[str, Request], Any, Outputs]:
    """Every listed site in one run, what the model makes of the inputs meanwhile, and its norms."""
    taps = _every_site(model)
    norms = {tap.site.module for tap in taps.values() if tap.site.kind == "normalized"}
    seen: Outputs = {}

    thread = threading.get_ident()

    def keep(module: torch.nn.Module, args: Any, output: Tensor) -> None:
        if threading.get_ident() == thread:
            seen.setdefault(module, []).append(output)

    handles = [norm.register_forward_hook(keep) for norm in norms]
    try:
        with Run(model._frame, taps, model.splices):
            return taps, main_output(run_plain(model.module, ready.args, ready.kwargs)), seen
    finally:
        for handle in handles:
            handle.remove()


def _refuse_unreached(model: HookedModel, taps: dict[str, Request]) -> bool:
    """Refuse sites inside attention that the registered function never computed; True if any.

    The run that finds them proves nothing else: in some of these architectures even asking for
    another attention function changes the numbers (Falcon with alibi), so nobody may ask again.
    """
    unreached = [n for n, tap in taps.items() if tap.site.kind == "attention" and not tap.fired]
    for name in unreached:
        model.adapter.refused[name] = UNREACHED
        del model.sites.listed[name]
    return bool(unreached)


def _refuse_silent(model: HookedModel, taps: dict[str, Request]) -> None:
    for name, tap in taps.items():
        call = tap.site.call
        if (tap.fired != 1) if call is None else (tap.fired <= call):
            model.adapter.refused[name] = f"it fires {tap.fired} times in one forward pass"


def _refuse_other_norms(
    model: HookedModel, values: dict[str, Tensor], seen: Outputs, tolerance: float
) -> None:
    """Refuse the inside of norms that compute something else than normalized * gain + bias."""
    for name, value in values.items():
        site = model.sites[name]
        if site.kind != "normalized" or (parts := norm_parts(site.module)) is None:
            continue
        if any(p.is_meta for p in site.module.parameters()):  # its gain is there while it runs only
            continue
        output = seen[site.module][site.call or 0]
        if not close(parts.finish(site.module, value, output), output, tolerance):
            for inside in (name, name.replace("hook_normalized", "hook_scale")):
                model.adapter.refused[inside] = "this norm is not normalized * gain + bias"


def _mark_volatile(model: HookedModel, taps: dict[str, Request]) -> None:
    for name, tap in taps.items():
        if tap.overwritten():
            model.adapter.sites[name] = model.sites.listed[name] = replace(tap.site, volatile=True)


def close(a: Any, b: Tensor, tolerance: float) -> bool:
    """Whether values agree, relative to the largest of `b`; what is not finite must be the same."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    scale = b.abs().max().float().clamp(min=1e-6)
    if bool(((a - b).abs().max().float() / scale) <= tolerance):
        return True
    # Logits of ids that never occur may be -inf: the same ones, and the rest is compared.
    finite = a.isfinite() & b.isfinite()
    alike = finite | (a == b) | (a.isnan() & b.isnan())
    return bool(alike.all()) and not bool(finite.all()) and close(a[finite], b[finite], tolerance)


def _broken_promises(
    model: HookedModel, values: dict[str, Tensor], tolerance: float
) -> Iterator[tuple[str, str]]:
    """Sites whose value is not what the name says, with the arithmetic that failed."""

    def fails(name: str, make: Callable[[], Tensor]) -> bool:
        # bf16 sums round differently in another order: the bound is relative and generous there.
        return name in values and not close(make(), values[name], tolerance * 3)

    for stack_prefix in ("blocks", "encoder_blocks", "decoder_blocks", "text_blocks", "vision_blocks"):
        layer = 0
        while (p := f"{stack_prefix}.{layer}.") and f"{p}hook_resid_pre" in values:
            v = {n.removeprefix(p): t for n, t in values.items() if n.startswith(p)}
            yield from _block_promises(model, p, v, fails)
            layer += 1


def _block_promises(
    model: HookedModel, p: str, v: dict[str, Tensor], fails: Callable[[str, Any], bool]
) -> Iterator[tuple[str, str]]:
    style = model.cfg.style
    cross = "hook_cross_attn_out" in v
    mid = "hook_resid_mid"
    if mid in v and "hook_attn_out" in v and fails(p + mid, lambda: v["hook_resid_pre"] + v["hook_attn_out"]):
        yield p + mid, "resid_pre + attn_out is something else here"
    if (
        cross
        and style != "post"
        and fails(p + "hook_resid_mid_cross", lambda: v[mid] + v["hook_cross_attn_out"])
    ):
        yield p + "hook_resid_mid_cross", "resid_mid + cross_attn_out is something else here"
    before = v.get("hook_resid_mid_cross", v.get(mid)) if style == "pre" else v["hook_resid_pre"]
    if style == "post":
        before = None  # the norm stands between: checked by the norm's own formula below
    if style == "parallel" and "hook_attn_out" in v:
        before = v["hook_resid_pre"] + v["hook_attn_out"]
    if "hook_mixer_out" in v and fails(
        p + "hook_resid_post", lambda: v["hook_resid_pre"] + v["hook_mixer_out"]
    ):
        yield p + "hook_mixer_out", "its sum with the residual stream is not resid_post here"
    if before is not None and "hook_mlp_out" in v:
        parts = before
        if fails(p + "hook_resid_post", lambda: parts + v["hook_mlp_out"]):
            for name in ("hook_mlp_out", "hook_attn_out"):
                yield p + name, "its sum with the residual stream is not resid_post here"
    for attn in ("attn", "self_attn", "cross_attn"):
        if f"{attn}.hook_z" in v:
            yield from _attention_promises(model, p, attn, v, fails)


def _attention_promises(
    model: HookedModel, p: str, attn: str, v: dict[str, Tensor], fails: Callable[[str, Any], bool]
) -> Iterator[tuple[str, str]]:
    pattern, value, z = (v.get(f"{attn}.hook_{x}") for x in ("pattern", "v", "z"))
    if pattern is not None and value is not None and z is not None:
        wide = value.repeat_interleave(z.shape[2] // value.shape[2], dim=2)

        def mix() -> Tensor:
            return torch.einsum("bhqk,bkhd->bqhd", pattern.to(wide.dtype), wide)

        if fails(f"{p}{attn}.hook_z", mix):
            yield f"{p}{attn}.hook_v", "pattern · v is not z here"
    out = {"attn": "hook_attn_out", "self_attn": "hook_attn_out", "cross_attn": "hook_cross_attn_out"}[attn]
    result = v.get(f"{attn}.hook_result")
    # The small transformer has a hook point of its own there, equal to TransformerLens's in tests.
    if result is None or model.sites[f"{p}{attn}.hook_result"].kind != "result":
        return
    if out in v and f"{p}ln1_post.hook_scale" not in model.sites:
        bias = getattr(plain(model.sites[f"{p}{attn}.hook_z"].module), "bias", None)
        bias = None if bias is None or callable(bias) else bias * model.adapter.factors.write
        total = result.sum(2) if bias is None else result.sum(2) + bias
        if fails(p + out, lambda: total):
            yield f"{p}{attn}.hook_result", "per-head results do not sum to attn_out here"


def _prove_head(model: HookedModel, values: dict[str, Tensor], raw: Any, tolerance: float) -> None:
    """unembed(ln_final(last residual)) must be the model's own logits, or it is not offered."""
    if model.adapter.unembed is None or not isinstance(raw, Tensor):
        return
    resid = values.get(last_residual(model))
    if resid is None:
        return
    if model.adapter.pools_first:
        resid = resid[:, 0]
    # Mamba's logits are float32 whatever the model is.
    tolerance = max(tolerance, TOLERANCE.get(str(raw.dtype).removeprefix("torch."), tolerance))
    logits = model.unembed(model.ln_final(resid))
    if not close(logits, raw, tolerance * 3):
        model.adapter.unembed = None
        model.adapter.notes.append("the head does more than norm and unembedding: no `unembed`")


def last_residual(model: HookedModel) -> str:
    """Name of the residual stream that the final norm reads.

    Raises:
        ModelError: The model has no named residual stream.
    """
    cfg = model.cfg
    prefix, n = ("decoder_blocks", cfg.n_decoder_layers) if cfg.n_decoder_layers else ("blocks", cfg.n_layers)
    if cfg.family == "T5" and not cfg.n_decoder_layers:
        prefix = "encoder_blocks"
    name = f"{prefix}.{n - 1}.hook_{'normalized_' if cfg.style == 'post' else ''}resid_post"
    if n == 0:
        raise ModelError(f"{cfg.model_name} has no residual stream by name")
    return name
