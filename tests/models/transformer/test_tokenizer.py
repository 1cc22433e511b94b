"""The quantizer, and the likelihood of pixels."""

import torch

from imggen.models.transformer.quantizer import Quantizer
from imggen.models.transformer.tokenizer import log_probability, logistic_mean


def test_pixel_probabilities_add_up_and_the_mean_is_theirs() -> None:
    location = torch.tensor([-1.3, -0.9, 0.0, 0.4, 1.2]).view(-1, 1, 1, 1)
    log_scale = torch.tensor([-1.0, -3.0, -7.0, 0.5, -2.0]).view(-1, 1, 1, 1)
    levels = (torch.arange(256) / 127.5 - 1).view(1, 1, 1, -1)
    probabilities = log_probability(levels.expand(5, 1, 1, -1), location, log_scale).double().exp()
    assert torch.allclose(probabilities.sum(-1), torch.ones(5, 1, 1, dtype=torch.float64), atol=1e-4)
    mean = (probabilities * levels).sum(-1).flatten()
    assert (mean - logistic_mean(location, log_scale).flatten()).abs().max() < 1e-2


def test_the_quantizer() -> None:
    quantizer = Quantizer((8, 5, 5, 5))
    latents = torch.randn(50, 4) * 3
    tokens = quantizer.quantize(latents)
    assert (tokens >= 0).all() and (tokens < torch.tensor([8, 5, 5, 5])).all()
    codes = quantizer.to_codes(tokens)
    assert torch.equal(quantizer.from_codes(codes), tokens)
    assert len(codes.unique()) > 30 and codes.max() < 1000
    assert torch.equal(quantizer.quantize(torch.atanh(quantizer.dequantize(tokens))), tokens)
    assert torch.equal(quantizer.quantize(torch.full((1, 4), torch.nan)), torch.zeros(1, 4, dtype=torch.int64))
    latents.requires_grad_(True)
    quantizer(latents).sum().backward()
    assert latents.grad is not None and torch.allclose(latents.grad, 1 - latents.detach().tanh() ** 2, atol=1e-6)
    # The quantizer computes bfloat16 latents in float32.
    assert torch.equal(quantizer.quantize(latents.detach().bfloat16()), quantizer.quantize(latents.bfloat16().float()))
