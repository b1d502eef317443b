"""The decoder of our pre-training in a checkpoint, by what its config says."""

import pytest
import torch

from mixedae.checkpoints.decoders import decoder_of
from mixedae.checkpoints.facts import Facts


@pytest.mark.parametrize(
    'model, found',
    [
        ("type='MixedAE', encoder=dict(), reconstruction_weight=0.0", (False, None)),
        ("type='MixedAE', decoder_cls=False", (False, None)),
        ("type='MAE', decoder=dict(use_cls=False)", (False, None)),
        ("type='OwnModel'", (True, None)),
        ("type='OwnModel', decoder=dict(num_heads=3)", (True, 3)),
        ("type='MixedAE', decoder=dict(num_heads=some)", (True, None)),
    ],
)
def test_decoder_of__what_the_config_says(model, found):
    names = {'encoder.norm.weight', 'decoder.pred.weight'} if 'reconstruction' not in model else {'encoder.norm.weight'}
    decoder, heads = decoder_of({name: torch.zeros(1) for name in names}, Facts(config=f'model = dict({model})'))
    assert (bool(decoder), heads) == found
