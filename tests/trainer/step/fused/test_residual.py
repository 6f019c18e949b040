import pytest
import torch
from torch import Tensor, nn
from toys import toy_config, toy_decoder

from lm.model.decoder import Decoder
from trainer.step.compiled import compile_blocks, compiled_batch_loss
from trainer.step.fused.residual import halve_residual
from trainer.step.loss import batch_loss

pytestmark = pytest.mark.filterwarnings("default")


def loss_and_dtypes(decoder: Decoder, compiles: bool) -> tuple[Tensor, set[torch.dtype]]:
    """Loss of one batch in bfloat16 autocast, and the dtypes that go into blocks."""
    seen: set[torch.dtype] = set()

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.add(arguments[0].dtype)

    for block in decoder.model.layers:
        block.register_forward_pre_hook(note)
    token_ids = torch.arange(34).view(2, 17)
    loss_of = compiled_batch_loss("aot_eager") if compiles else batch_loss
    with torch.autocast("cpu", torch.bfloat16):
        return loss_of(decoder, token_ids[:, :-1], token_ids[:, 1:].contiguous()), seen


@pytest.mark.parametrize("compiles", [True, False])
def test_blocks_add_to_half_precision_and_the_loss_stays_near(compiles: bool) -> None:
    torch._dynamo.reset()
    plain, halved = (toy_decoder(config=toy_config(dropout=0.0)).train() for _ in range(2))
    if compiles:
        compile_blocks(halved, "aot_eager")
    halve_residual(halved)
    expected, before = loss_and_dtypes(plain, compiles=False)
    loss, dtypes = loss_and_dtypes(halved, compiles)
    assert (before, dtypes) == ({torch.float32}, {torch.bfloat16})
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    loss.backward()
    for parameter in halved.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype is torch.float32


def test_without_gradients_or_autocast_nothing_changes() -> None:
    plain, halved = toy_decoder(), toy_decoder()
    halve_residual(halved)
    token_ids = torch.arange(16)[None]
    assert torch.equal(halved(token_ids), plain(token_ids))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(halved(token_ids), plain(token_ids))
