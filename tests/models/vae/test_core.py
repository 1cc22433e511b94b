"""The top-down pass: divergences, ratios, and the precision of what distributions are made of."""

import importlib.util

import torch

from imggen.models.vae.core import (
    Normal,
    TopDownPass,
    encoder_posterior,
    kl_divergence,
    log_density_ratio,
    top_down_pass,
)
from imggen.models.vae.hierarchy import Hierarchy
from tests.models.vae.helpers import small_config


def test_divergences_and_ratios_are_those_of_torch() -> None:
    torch.manual_seed(0)
    shapes = [(6, 3, 1, 1), (6, 3, 4, 4)]
    posteriors = [Normal(torch.randn(shape), torch.rand(shape) + 0.2) for shape in shapes]
    others = [Normal(torch.randn(shape), torch.rand(shape) + 0.2) for shape in shapes]
    standardized = [torch.randn(shape) for shape in shapes]
    noise = [q.mean + q.scale * s for q, s in zip(posteriors, standardized, strict=True)]
    encoding = TopDownPass(torch.zeros(6, 1, 1, 1), posteriors, noise)
    standard = torch.distributions.Normal(0.0, 1.0)
    expected_posteriors = [torch.distributions.Normal(q.mean, q.scale) for q in posteriors]

    # KL divergence from the standard normal, and from any other
    expected_kl = [torch.distributions.kl_divergence(q, standard).flatten(1).sum(1) for q in expected_posteriors]
    for kl, expected in zip(encoding.layer_kl, expected_kl, strict=True):
        torch.testing.assert_close(kl, expected)
    torch.testing.assert_close(encoding.kl, torch.stack(expected_kl).sum(0))
    for q, p, expected_q in zip(posteriors, others, expected_posteriors, strict=True):
        expected = torch.distributions.kl_divergence(expected_q, torch.distributions.Normal(*p)).flatten(1).sum(1)
        torch.testing.assert_close(kl_divergence(q, p), expected)

    # Log-ratio of prior and posterior
    ratios = [standard.log_prob(x) - q.log_prob(x) for x, q in zip(noise, expected_posteriors, strict=True)]
    expected_ratio = torch.stack([ratio.flatten(1).sum(1) for ratio in ratios]).sum(0)
    torch.testing.assert_close(encoding.log_ratio, expected_ratio, rtol=1e-4, atol=1e-4)
    given = [log_density_ratio(x, s, q) for x, s, q in zip(noise, standardized, posteriors, strict=True)]
    torch.testing.assert_close(torch.stack(given).sum(0), expected_ratio, rtol=1e-4, atol=1e-4)


def test_distributions_are_computed_in_float32() -> None:
    torch.manual_seed(0)
    core = Hierarchy(small_config(z=2))
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        encoding = top_down_pass(core, 2, None, encoder_posterior(core, images))
    for values in (encoding.output, *(q.mean for q in encoding.posteriors), *(q.scale for q in encoding.posteriors)):
        assert values.dtype == torch.float32
        assert float((values.bfloat16().float() != values).float().mean()) > 0.5


def test_the_standard_normal_is_on_the_cpu_whatever_the_default_device_is() -> None:
    """Checkpoints are loaded under the meta device, and this module may first be imported then."""
    spec = importlib.util.find_spec("imggen.models.vae.core")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with torch.device("meta"):
        spec.loader.exec_module(module)
    assert module.STANDARD.mean.device.type == module.STANDARD.scale.device.type == "cpu"
