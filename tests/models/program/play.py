"""Run a program on the package and compare every answer with the naive one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import interp
from interp.models.hooks import passes
from interp.models.text.tokens import TokenBatch
from tests.models.program import naive
from tests.models.program.edits import TOKEN_AXIS, Edit, dented, ranks
from tests.models.program.naive import Active, Answer, Text, exactly
from tests.models.program.programs import Close, Open, Program, Run, Write
from tests.models.program.state import state
from tests.models.program.subjects import pixels
from tests.models.program.words import intervention

MODES = {"no_grad": torch.no_grad, "grad": torch.enable_grad, "inference": torch.inference_mode}


class Difference(AssertionError):
    """The package gives something else than hands do."""


def close(found: Tensor, right: Tensor, what: str, dtype: torch.dtype = torch.float64) -> None:
    """To 1e-10 of the scale in float64, to 8 units in the last place elsewhere."""
    if found.shape != right.shape or found.dtype != right.dtype:
        raise Difference(f"{what}: {found.dtype} {tuple(found.shape)}, right {tuple(right.shape)}")
    part = 1e-10 if dtype is torch.float64 else 8 * torch.finfo(dtype).eps
    scale = max(float(right.abs().max()), 1.0) if right.numel() else 1.0
    gap = float((found - right).abs().max()) if right.numel() else 0.0
    if not gap <= part * scale:
        raise Difference(f"{what}: {gap:.3g} apart at scale {scale:.3g}")


class Player:
    """One program on one model."""

    def __init__(self, program: Program) -> None:
        self.program, self.model = program, program.model
        self.module = self.model.hooked.module
        self.open: list[tuple[Any, Active]] = []
        self.called: list[Tensor] = []

    def play(self) -> None:
        """Every statement, then nothing may be left.

        Raises:
            Difference: Naming the statement.
        """
        self.module.train(self.program.train)
        before = state(self.module)
        try:
            for number, step in enumerate(self.program.steps):
                try:
                    self._step(step)
                except Difference as error:
                    raise Difference(f"statement {number}, {error}") from None
        finally:
            while self.open:
                self.open.pop()[0].__exit__(None, None, None)
            after = state(self.module)
            left = passes.active()
            self.module.eval()
        if left:
            raise Difference("a run or a pass is left in place")
        for what, value in before.items():
            if after[what] != value:
                raise Difference(f"{what} was {value}, is {after[what]}")

    def _step(self, step: Open | Close | Run | Write) -> None:
        if isinstance(step, Open):
            block = self._of(step.view).hooks([self._hook(e, None) for e in step.edits])
            block.__enter__()
            self.open.append((block, Active(step.view, step.edits)))
        elif isinstance(step, Close):
            if self.open:
                self.open.pop(step.which % len(self.open))[0].__exit__(None, None, None)
        elif isinstance(step, Run):
            self._run(step)
        else:
            self._write(step)

    def _of(self, view: naive.View) -> interp.HookedModel:
        return self.model.hooked if view is None else self.model.view(view)[0]

    def _active(self, step: Run | Write) -> list[Active]:
        return [*(active for _, active in self.open), Active(step.view, step.edits)]

    # --- one forward ---------------------------------------------------------------------------

    def _run(self, step: Run) -> None:
        text, model = self.program.text, self.model
        if step.how in ("raw", "hidden") and self.program.train and not self.open:
            return  # no block, no pass: the module is in the mode that its owner chose
        if step.how == "begun" and self._positional():
            return  # positions would be those of each of the two passes
        thrown = None if step.fault is None else step.fault("from a hook")
        hooks = [self._hook(e, thrown) for e in step.edits]
        self.called = []
        with MODES[step.mode](), exactly(model):
            try:
                output, acts = self._call(step, hooks)
            except BaseException as error:
                if thrown is None or error is not thrown:
                    raise
                return
        if thrown is not None:
            raise Difference(f"{step.how}: the hook's {thrown!r} was swallowed")
        gradient = step.mode == "grad" and output is not None
        active = self._active(step)
        right = naive.forward(
            model, text, active, step.keep, step.view, gradient, gradient and step.how == "cache"
        )
        if output is not None:
            self._same_output(step, output, right)
        for name in step.keep:
            self._same_site(step, name, acts[name].detach(), right)
        if self.called:
            plain = naive.forward(model, text, [])
            for found in self.called:
                self._rows(found, plain.output, "a forward inside a hook")

    def _call(self, step: Run, hooks: list[Any]) -> tuple[Any, Any]:
        model, more = self._of(step.view), self._more()
        given = self._two_sides(self.program.text) if self.model.kind == "sides" else self._inputs()
        copy = self.model.kind == "rows"
        if step.how == "raw":
            return naive.main(self._raw()), None
        if step.how == "hidden":
            states = self._raw(output_hidden_states=True).hidden_states
            return None, {step.keep[0]: states[step.layer + 1]}
        if step.how == "stop":
            return None, {step.keep[0]: model(given, stop_at_layer=step.layer, **more)}
        if step.how == "begun":
            return self._begun(step, hooks), None
        if step.how == "call":
            return model(given, **more), None
        if step.how == "hooks":
            return model.run_with_hooks(given, hooks, **more), None
        more |= {"fwd_hooks": hooks, "positions": step.positions, "clone": copy}
        if step.how == "capture":
            return None, model.capture(given, step.keep, **more)
        return model.run_with_cache(given, step.keep, grad=step.mode == "grad", **more)

    def _positional(self) -> bool:
        edits = [e for _, active in self.open for e in active.edits]
        return any(e.positions is not None or e.column is not None for e in edits)

    def _begun(self, step: Run, hooks: list[Any]) -> Tensor:
        """The first tokens with a cache, perhaps a capture that goes on with it, the last token."""
        ids, site = self.program.text.ids(3), "blocks.0.hook_resid_post"
        with self._of(step.view).hooks(hooks) as model:
            first = self.module(ids[:, : max(ids.shape[1] - 2, 1)], use_cache=True)
            cache = first.past_key_values
            if ids.shape[1] > 2:
                model.capture(ids[:, -2:-1], site, past_key_values=cache)
            return model(ids[:, -1:], past_key_values=cache)

    def _same_output(self, step: Run, output: Tensor, right: Answer) -> None:
        if step.how == "begun":
            for row, theirs in enumerate(right.output):
                close(output[row].detach(), theirs[-1:], f"with a cache, row {row}")
            return
        self._rows(output.detach(), right.output, f"{step.how}: the output")
        if right.gradient is None or self.model.dtype is not torch.float64:
            return
        text = self.program.text.decoder or self.program.text
        loss = sum(
            (row if row.dim() < 2 or self.model.kind in ("pixels", "rows") else row[columns]).square().sum()
            for row, columns in zip(output, text.columns, strict=True)
        )
        parameter = next(self.module.parameters())
        found = torch.zeros_like(parameter)
        if isinstance(loss, Tensor) and loss.requires_grad:
            with exactly(self.model):
                (found,) = torch.autograd.grad(loss, parameter, allow_unused=True, materialize_grads=True)
        close(found, right.gradient, f"{step.how}: the gradient of {step.edits}")

    def _rows(self, found: Tensor, right: list[Tensor], what: str) -> None:
        text = self.program.text.decoder or self.program.text
        if len(found) != len(right):
            raise Difference(f"{what}: {len(found)} rows for {len(right)}")
        for row, (mine, theirs) in enumerate(zip(found, right, strict=True)):
            if self.model.kind not in ("pixels", "rows"):
                mine = mine[text.columns[row]]
                theirs = theirs[text.columns[row]] if self._together else theirs
            close(mine, theirs, f"{what}, row {row}", self.model.dtype)

    @property
    def _together(self) -> bool:
        return self.model.dtype is not torch.float64

    def _same_site(self, step: Run, name: str, found: Tensor, right: Answer) -> None:
        text = self.program.text
        if name.startswith("decoder") and text.decoder is not None:
            text = text.decoder
        axes = "d" if "hook_sae" in name else self.model.places[name].axes
        if len(found) != len(text.rows):
            raise Difference(f"{name}: {len(found)} rows for {len(text.rows)}")
        for row, theirs in enumerate(right.kept[name]):
            mine, columns = found[row], text.columns[row]
            if step.positions is not None:
                chosen = ranks(step.positions, row, columns)
                places = [columns[k] for k in chosen] if self._together else chosen
                theirs = theirs[places]
            elif axes == "a":
                keys = columns if "cross" not in name else self.program.text.columns[row]
                mine = mine[:, columns][:, :, keys]
                theirs = theirs[:, columns][:, :, keys] if self._together else theirs
            elif axes == "k":
                keys = self.program.text.columns[row]
                mine = mine[keys]
            elif axes in TOKEN_AXIS:
                mine = mine[columns]
                theirs = theirs[columns] if self._together else theirs
            if name.endswith("hook_attn_scores"):
                # Where nobody may look the numbers differ by how a mask is written.
                unseen = (mine < -1e30) | (theirs < -1e30)
                mine, theirs = mine.masked_fill(unseen, 0), theirs.masked_fill(unseen, 0)
            close(mine, theirs, f"{step.how}: {name} after {step.edits}, row {row}", self.model.dtype)

    # --- tokens --------------------------------------------------------------------------------

    def _write(self, step: Write) -> None:
        text, model = self.program.text, self.model
        own = getattr(getattr(self.module, "generation_config", None), "eos_token_id", None)
        stop = () if own is None or not model.own_generate else (int(own),)
        active, how = self._active(step), replace(step.how, stop=stop)
        right = naive.written(model, text, active, how)
        more: dict[str, Any] = {"num_beams": how.beams} if how.beams > 1 else {}
        more |= {"num_return_sequences": how.samples} if how.samples > 1 else {}
        more |= {"top_k": how.top_k} if how.top_k else {}
        if step.stop_at is not None and step.stop_at < len(right[0].tokens):
            more["eos_token_id"] = right[0].tokens[step.stop_at]
            how = replace(how, stop=(more["eos_token_id"],))
            right = naive.written(model, text, active, how)
        given = self._inputs()
        if self.program.form == "keyword":
            given = TokenBatch(given, text.mask)
        held: list[Tensor] = []
        with exactly(model):
            ids = self._of(step.view).generate(
                given,
                how.n,
                fwd_hooks=[
                    *(self._hook(e, None) for e in step.edits),
                    (naive.last_site(model), lambda value, hook: held.append(value[:, -1].clone())),
                ],
                temperature=how.temperature,
                seed=how.seed,
                use_cache=step.cache,
                return_ids=True,
                **more,
            )
        for which, answer in enumerate(right):
            theirs = answer.tokens
            for number, value in enumerate(answer.held):
                close(held[number][which], value, f"generate, row {which}, step {number}")
            row = which // how.samples
            mine, prompt = ids[which].tolist(), [0] if model.kind == "sides" else text.rows[row]
            start = 1 if model.kind == "sides" else text.length
            if mine[start - len(prompt) : start] != prompt:
                raise Difference(f"generate, row {which}: {mine} does not begin with {prompt}")
            for token in how.stop:
                theirs = theirs[: theirs.index(token) + 1] if token in theirs else theirs
            if mine[start:][: len(theirs)] != theirs:
                raise Difference(f"generate, row {which}: {mine[start:]}, right {theirs}")

    # --- the user's side -----------------------------------------------------------------------

    def _inputs(self) -> Any:
        program, text = self.program, self.program.text
        if self.model.kind in ("pixels", "rows"):
            return torch.stack([pixels(self.model, row[0]) for row in text.rows])
        ids, mask = text.ids(3), text.mask
        if self.model.kind == "sides":
            return {"input_ids": ids, "attention_mask": mask.long()}
        if program.form == "batch":
            return TokenBatch(ids, mask)
        if program.form == "dict":
            return {"input_ids": ids, "attention_mask": mask.long()}
        return ids

    def _two_sides(self, text: Text) -> dict[str, Tensor]:
        assert text.decoder is not None
        return {
            "input_ids": text.ids(3),
            "attention_mask": text.mask.long(),
            "decoder_input_ids": text.decoder.ids(3),
            "decoder_attention_mask": text.decoder.mask.long(),
        }

    def _more(self) -> dict[str, Any]:
        text = self.program.text
        if self.program.form == "keyword" and not bool(text.mask.all()):
            return {"attention_mask": text.mask.long()}
        return {}

    def _raw(self, **more: Any) -> Any:
        """The raw module called as its own documentation says."""
        text, model = self.program.text, self.model
        if model.kind in ("pixels", "rows"):
            return self.module(self._inputs())
        if model.kind == "sides":
            return self.module(**self._two_sides(text))
        ids, mask = text.ids(3), text.mask
        if bool(mask.all()):
            return self.module(ids, **more)
        more["attention_mask"] = mask.long()
        if not bool(mask[:, 0].all()) and model.own_generate:
            more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
            if model.name == "roberta":
                more["position_ids"] += 2
            if model.name in ("bloom", "mpt"):
                del more["position_ids"]
        return self.module(ids, **more)

    def _hook(self, edit: Edit, thrown: BaseException | None) -> Any:
        if edit.style == "intervention":
            return intervention(edit)

        def fn(value: Tensor, hook: Any) -> Tensor | None:
            if edit.verb == "raise" and thrown is not None:
                raise thrown
            if edit.verb == "call":
                sides = self.model.kind == "sides"
                given = self._two_sides(self.program.text) if sides else self._inputs()
                inner = self.model.hooked(given, **self._more())
                self.called.append(inner.detach())
            if edit.verb in ("raise", "call", "nothing"):
                return None
            if edit.style == "whole":
                return dented(value, edit.axes)
            value = value.clone() if edit.style == "copy" else value
            target = value.data if edit.style == "data" else value
            spot: list[Any] = [slice(None)] * value.dim()
            if edit.column is not None:
                spot[TOKEN_AXIS[edit.axes]] = edit.column
            target[tuple(spot)] = dented(target[tuple(spot)], edit.axes)
            return value if edit.style in ("copy", "idiom") else None

        return edit.site, fn


def play(program: Program) -> None:
    """Run one program.

    Raises:
        Difference: The package and the hands disagree.
    """
    Player(program).play()
