"""Drop-ins in torch.compile without a graph break."""

import pytest
import torch

from mi_ext.dropin import inf_cl, info_nce, lightly, open_clip

SCALARS = torch.tensor(3.0), torch.tensor(-1.0)
LOSSES = {
    "InfoNCE": info_nce.InfoNCE(),
    "InfoNCE, unpaired": lambda x, y: info_nce.info_nce(x, y, y.flip(0)),
    "NTXentLoss": lightly.NTXentLoss(),
    "DCLWLoss": lightly.DCLWLoss(),
    "ClipLoss": lambda x, y: open_clip.ClipLoss()(x, y, *SCALARS),
    "SigLipLoss": lambda x, y: open_clip.SigLipLoss()(x, y, *SCALARS),
    "cal_inf_loss": lambda x, y: inf_cl.cal_inf_loss(x, y, scale=SCALARS[0]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_graph_break(name):
    x, y = (torch.randn(8, 4, generator=torch.Generator().manual_seed(s)).requires_grad_() for s in (0, 1))
    results = []
    for loss in (LOSSES[name], torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")):
        value = loss(x, y)
        results.append([value, *torch.autograd.grad(value, (x, y))])
    torch.testing.assert_close(*results)
