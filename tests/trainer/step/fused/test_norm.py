import pytest
import torch
from torch import nn
from toys import toy_config, toy_decoder

from trainer.step.fused.norm import use_fast_norms
from trainer.step.loss import batch_loss


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_loss_and_gradients_are_those_of_the_plain_norms(norm: str) -> None:
    plain, fast = (toy_decoder(config=toy_config(norm=norm)).double() for _ in range(2))
    use_fast_norms(fast)
    tokens = torch.arange(24).view(2, 12)
    losses = [batch_loss(decoder, tokens, tokens) for decoder in (plain, fast)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_under_autocast_the_output_is_what_a_product_would_make_of_it() -> None:
    decoder = toy_decoder()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    norm = decoder.model.norm
    assert isinstance(norm, nn.RMSNorm)
    plain = norm(x)
    use_fast_norms(decoder)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, plain.bfloat16())
    assert norm(x).dtype == torch.float32


def test_the_weight_s_gradient_has_the_precision_of_the_weight() -> None:
    decoder = toy_decoder()
    use_fast_norms(decoder)
    with torch.autocast("cpu", torch.bfloat16):
        batch_loss(decoder, torch.arange(8)[None], torch.arange(8)[None]).backward()
    assert decoder.model.norm.weight.grad.dtype == torch.float32
    assert len(decoder.model.norm.weight.grad.unique()) > 32
