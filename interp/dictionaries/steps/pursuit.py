"""The step of a matching pursuit dictionary: backwards through the latents taken, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from interp.dictionaries.steps.coding import scatter
from interp.dictionaries.steps.shared import Batch, Step


class PursuitStep(Step):
    """Squared error only. With r_t the residual after latent i_t of value v_t:

        r_t = r_(t-1) - v_t w_t,    v_t = relu(r_(t-1) . w_t)

    so with R_t the gradient at r_t, V_t = -R_t . w_t where v_t > 0: the row w_t gets
    V_t r_(t-1) - v_t R_t, and R_(t-1) = R_t + V_t w_t.
    """

    def run(self, batch: Batch, low: torch.dtype | None) -> tuple[Tensor, dict[str, Tensor]]:
        del low  # the choice of a latent needs the residual's small digits
        d, n = self.dictionary, len(batch.x)
        values, indices, residual = d.pursue(batch.centred)
        whole = batch.x - residual  # of x: what was taken, and b_dec again
        if batch.scale is not None:
            normal = batch.centred - residual
            normal = normal + d.b_dec if d.config.apply_b_dec_to_input else normal
            whole = normal * batch.scale.size + batch.scale.shift
        error = batch.y - whole
        mse = error.flatten().dot(error.flatten()) / n
        to_out = error * (-2 / n)
        if batch.scale is not None:
            to_out *= batch.scale.size
        to_W_dec = torch.zeros_like(d.W_dec)
        to_residual = -to_out
        for t in range(values.shape[1] - 1, -1, -1):
            value, index = values[:, t, None], indices[:, t]
            rows = d.W_dec.index_select(0, index)
            residual = residual + value * rows
            to_value = -(to_residual * rows).sum(1, keepdim=True) * (value > 0)
            to_W_dec.index_add_(0, index, to_value * residual - value * to_residual)
            to_residual = to_residual + to_value * rows
        d.W_dec.grad = to_W_dec
        d.b_dec.grad = torch.zeros_like(d.b_dec)
        if d.config.apply_b_dec_to_input:  # b_dec and what is taken cancel but for the residual
            d.b_dec.grad -= to_residual.sum(0)
        self.fired: Tensor = scatter(values, indices, d.config.d_sae).ne(0).any(0)
        active = torch.count_nonzero(scatter(values, indices, d.config.d_sae))
        return mse, {"mse": mse, "l0": active.to(mse.dtype) / n}
