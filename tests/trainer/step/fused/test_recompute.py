import pytest
import torch
from toys import toy_config, toy_decoder

from trainer.step.fused.recompute import recompute_activations
from trainer.step.loss import batch_loss


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_loss_and_gradients_bit_for_bit(
    dropout: float,
) -> None:
    plain, recomputing = (toy_decoder(config=toy_config(dropout=dropout)).train() for _ in range(2))
    recompute_activations(recomputing)
    tokens = torch.arange(24).view(2, 12)
    losses = []
    for decoder in (plain, recomputing):
        torch.manual_seed(3)
        losses.append(batch_loss(decoder, tokens, tokens))
        losses[-1].backward()
    assert torch.equal(*losses)
    for mine, theirs in zip(recomputing.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_blocks_run_once_forward_and_once_again_backward() -> None:
    decoder = toy_decoder().train()
    calls = []
    for block in decoder.model.layers:
        block.mlp.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    recompute_activations(decoder)
    tokens = torch.arange(8)[None]
    loss = batch_loss(decoder, tokens, tokens)
    assert calls.count("mlp") == 2
    loss.backward()
    assert calls.count("mlp") == 4
    with torch.inference_mode():
        batch_loss(decoder, tokens, tokens)
    assert calls.count("mlp") == 6
