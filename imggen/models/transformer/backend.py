"""The transformer as a map: noise → tokens → images, and back; inpainting; likelihoods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from imggen.errors import UsageError
from imggen.models.base import (
    DEFAULT_SAMPLING,
    Backend,
    Diagnostic,
    Features,
    Inversion,
    Task,
    class_log_frequencies,
)
from imggen.models.config import SamplingOptions
from imggen.models.heads import pool_unit_grid
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.causal_prior import CausalPrior
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.cuda_graphs import CudaGraphCache
from imggen.models.transformer.fast_prior import FastPrior
from imggen.models.transformer.mask_edges import blend_edges, extend_into_mask
from imggen.models.transformer.prior import Prior
from imggen.models.transformer.sampling import Prefix, invert_tokens, plan_order, sample_tokens
from imggen.models.transformer.tokenizer import Tokenizer

# Of the tokens' values in a vector, beside channels of length one. P@10 among 2,000 digits, trained without classes, is
# .80 without values, .85 with this weight, .86 with 1; by 1,000 labels a probe tells 94.6, 94.3 and 94.1 %.
VALUE_WEIGHT = 0.4
MAX_MASKED_FRACTION = 0.35  # of a token's patch, for the token to count as unmasked
DIAGNOSTIC_STEPS = (1, 4)  # `diagnostics` also gives the likelihood for these numbers of steps


class TransformerBackend(Backend):
    """A tokenizer and a prior over its tokens.

    Noise is (d, side, side): one number for each of the d channels of each token of the prior.
    """

    config: TransformerConfig
    supported: ClassVar[frozenset[str]] = frozenset({"temperature", "steps", "guidance", "top_k", "top_p"})
    needs_full_precision: ClassVar[bool] = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.tokenizer = Tokenizer(config)
        self.prior: Prior = build_prior(config)
        self.graph_cache: CudaGraphCache | None = None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(channels of a token, side, side)."""
        return (len(self.prior.factors), self.prior.side, self.prior.side)

    @property
    def steps(self) -> int:
        """Number of groups in which the tokens are sampled, unless --steps is given."""
        return self.prior.default_steps

    @cached_property
    def min_batch(self) -> int:
        """Rows of every batch on a CPU, a power of two, up to 16; see `_in_fixed_batches`."""
        return self.prior.min_batch

    def for_inference(self) -> TransformerBackend:
        """A copy with a `FastPrior`, which on an NVIDIA GPU replays repeated sampling as CUDA graphs.

        The textbook's model is returned as it is.
        """
        if not isinstance(self.prior, AnyOrderPrior):
            return self
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        assert isinstance(fast.prior, AnyOrderPrior)
        fast.prior = FastPrior(fast.prior)
        fast.graph_cache = CudaGraphCache()
        return fast

    def limitation(self, task: Task) -> str:
        """Directions need images that change gradually with the noise."""
        return "its noise chooses tokens, so images do not change gradually with it" if task == "directions" else ""

    def check_options(self, options: SamplingOptions) -> None:
        """Raise UsageError for steps of a model with a fixed order, and for guidance without a "no class" label."""
        super().check_options(options)
        if self.prior.fixed_order and options.steps not in (None, self.steps):
            raise UsageError("this transformer generates one token at a time", "leave --steps out")
        if options.guidance != 1 and (not self.classes or self.config.drop_label == 0):
            reason = "was trained without --drop-label" if self.classes else "has no classes"
            raise UsageError(f"guidance needs class labels, and this model {reason}", "leave --guidance out")

    def generate(
        self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Tensor:
        """Sample tokens group by group and decode them; the temperature divides the logits of every channel."""
        labels = self.labels_or_no_class(self._check_labels(labels, len(noise)), len(noise))
        plan = self.prior.plan(options.steps)
        order = plan_order(plan, noise.device)

        def generate_rows(noise: Tensor, labels: Tensor, order: Tensor = order) -> Tensor:
            values = sample_tokens(self.prior, labels, plan, _by_position(noise), options, order=order)
            return self._decode(values)

        if self.graph_cache is not None and noise.device.type == "cuda" and len(noise):
            return self.graph_cache(options, generate_rows, noise, labels, order)
        return self._in_fixed_batches(generate_rows, noise, labels)

    def invert(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> Inversion:
        """Find the noise that generates exactly the tokens of the images, with these options at temperature 1.

        Raises UsageError with top_k or top_p: some tokens can then not be generated at all.
        """
        if options.top_k or options.top_p < 1:
            raise UsageError("with --top-k or --top-p some images cannot be generated by any noise", "leave them out")
        if labels is None and self.classes:
            labels = self._class_scores(images).argmax(1)
        labels_or_none = self.labels_or_no_class(self._check_labels(labels, len(images)), len(images))
        options, plan = replace(options, temperature=1.0), self.prior.plan(options.steps)

        def invert_rows(images: Tensor, labels: Tensor) -> Tensor:
            values = self.prior.from_tokens(self.tokenizer.encode(images))
            noise = invert_tokens(self.prior, labels, plan, values, options)
            return noise.transpose(1, 2).reshape(len(noise), *self.noise_shape)

        return Inversion(self._in_fixed_batches(invert_rows, images, labels_or_none), labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = DEFAULT_SAMPLING,
    ) -> Tensor:
        """Sample the tokens of masked patches given the others, which are the prefix.

        Without labels, a model with classes samples without a class. The textbook's prior sees only the unmasked
        tokens that come earlier in raster order.
        """
        # The class.
        if labels is None and self.classes and self.config.drop_label == 0:
            labels = self._class_scores(images, mask).argmax(1)  # the model was not trained without classes
        labels = None if labels is None else self._check_labels(labels, len(images))
        labels = self.labels_or_no_class(labels, len(images))

        # Rows with the same masked tokens have the same plan, so they are sampled together. Rows without any masked
        # pixel are left out.
        patterns = [tuple(pattern) for pattern in self.masked_tokens(mask).tolist()]
        has_mask = self.touched_tokens(mask).any(1).tolist()
        extended = extend_into_mask(images, mask, self.tokenizer.patch)
        filled = images.clone()
        for pattern in dict.fromkeys(pattern for pattern, masked in zip(patterns, has_mask, strict=True) if masked):
            rows = torch.tensor([row for row, other in enumerate(patterns) if other == pattern], device=images.device)
            filled[rows] = self._sample_masked_tokens(extended[rows], noise[rows], labels[rows], pattern, options)
        return torch.where(mask > 0.5, self.harden(blend_edges(filled, images, mask)), images)

    def _sample_masked_tokens(
        self, images: Tensor, noise: Tensor, labels: Tensor, masked: tuple[bool, ...], options: SamplingOptions
    ) -> Tensor:
        """Images whose `masked` tokens (side²) are sampled and whose other tokens are kept; (B, C, H, W), decoded."""
        plan = self.prior.plan(options.steps, [position for position, is_masked in enumerate(masked) if is_masked])
        unmasked = frozenset(position for position, is_masked in enumerate(masked) if not is_masked)

        def inpaint_rows(images: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
            prefix = Prefix(self.prior.from_tokens(self.tokenizer.encode(images)), unmasked)
            return self._decode(sample_tokens(self.prior, labels, plan, _by_position(noise), options, prefix=prefix))

        return self._in_fixed_batches(inpaint_rows, images, noise, labels)

    def touched_tokens(self, mask: Tensor) -> Tensor:
        """Masks (B, 1, H, W) → which tokens (B, side²) have a masked pixel in their patch.

        All other tokens do not depend on what is masked: the encoder sees a token's own patch only.
        """
        return self._masked_fraction(mask) > 0

    def masked_tokens(self, mask: Tensor) -> Tensor:
        """Masks (B, 1, H, W) → which tokens (B, side²) to sample.

        Not those with a small masked fraction: the unmasked pixels of the patch, extended into the mask, predict them
        better than all other tokens do. If no patch is masked enough, those with the largest masked fraction are
        sampled, so that different noise gives different fills.
        """
        fraction = self._masked_fraction(mask)
        largest = fraction.amax(1, keepdim=True)
        return (fraction > MAX_MASKED_FRACTION) | ((fraction > largest / 2) & (largest <= MAX_MASKED_FRACTION))

    def _masked_fraction(self, mask: Tensor) -> Tensor:
        """Masks (B, 1, H, W) → the masked fraction of each token's patch, (B, side²)."""
        return avg_pool2d((mask > 0.5).float(), self.tokenizer.patch).flatten(1)

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Encode and decode images (B, C, H, W); the class has no influence."""

        def reconstruct_rows(rows: Tensor) -> Tensor:
            return self.harden(self.tokenizer.decode(self.tokenizer.encode(rows)))

        return self._in_fixed_batches(reconstruct_rows, images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """What the prior makes of all tokens, without a class, is the map.

        The vectors are it, pooled, with channels of length one at each place, and the tokens' values: the former
        separate classes, the latter give better nearest neighbors.
        """

        def see(images: Tensor) -> Tensor:
            tokens = self.tokenizer.encode(images)
            count = images.shape[0]  # len() would make an exported network one of a fixed number of images
            made = self.prior.features(self.prior.from_tokens(tokens), self.labels_or_no_class(None, count))
            together = torch.cat([made.float(), self.tokenizer.quantizer.dequantize(tokens)], 2)
            return together.transpose(1, 2).reshape(count, -1, self.prior.side, self.prior.side)

        together = self._in_fixed_batches(see, images)
        made, values = together[:, : self.config.width], together[:, self.config.width :]
        return Features(torch.cat([pool_unit_grid(made), VALUE_WEIGHT * values.flatten(1)], 1), (made,))

    @torch.no_grad()
    def class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The class's frequency and the likelihood of the tokens without masked pixels."""
        return self._class_scores(images, mask) if self.classes else None

    @property
    def binarized(self) -> bool:
        """False: the likelihood is that of images with 256 levels."""
        return False

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(tokens) + log p(image | tokens) in nats, (B,), sampled one token at a time: a lower bound.

        The probability of an image is a sum over all tokens from which it could be generated; this is one term of it.
        """
        labels = self.labels_or_no_class(self._check_labels(labels, len(images)), len(images))
        tokens = self.tokenizer.encode(images)
        return self.tokenizer.log_likelihood(images, tokens) + self.token_likelihood(tokens, labels, self.prior.length)

    def token_likelihood(self, tokens: Tensor, labels: Tensor, steps: int) -> Tensor:
        """log p(tokens) in nats, (B,), when sampled in `steps` steps; tokens (B, side², d) of the tokenizer."""
        groups = self.prior.plan_groups(steps, len(tokens), tokens.device)
        return self.prior.log_probabilities(self.prior.from_tokens(tokens), labels, groups).flatten(1).sum(1)

    def _class_scores(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability (B, classes), by class frequency and the likelihood of the tokens without masked pixels."""
        tokens = self.tokenizer.encode(images)
        groups = self.prior.plan_groups(self.steps, len(tokens), tokens.device)
        unmasked = torch.ones_like(groups, dtype=torch.bool) if mask is None else ~self.touched_tokens(mask)
        if not self.prior.fixed_order:
            # Masked tokens come last, so that the likelihoods of the unmasked ones do not depend on them.
            groups = torch.where(unmasked, groups, groups + self.prior.length)
        likelihoods = []
        for label in range(len(self.classes)):
            labels = torch.full_like(tokens[:, 0, 0], label)
            nats = self.prior.log_probabilities(self.prior.from_tokens(tokens), labels, groups).sum(-1)
            likelihoods.append((nats * unmasked).sum(1))
        return torch.stack(likelihoods, 1) + class_log_frequencies(self.config, images.device)

    def diagnostics(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = DEFAULT_SAMPLING
    ) -> dict[str, Diagnostic]:
        """Nats per token by number of steps and by frequency alone, reconstruction PSNR, and the codes in use."""
        labels = self.labels_or_no_class(self._check_labels(labels, len(images)), len(images))
        tokens, length = self.tokenizer.encode(images), self.prior.length
        counts = self.tokenizer.frequencies + 0.5
        log_frequencies = torch.log(counts / counts.sum())
        steps = {length} if self.prior.fixed_order else {length, self.steps, options.steps or 1, *DIAGNOSTIC_STEPS}
        error = (self.tokenizer.decode(tokens) - images).square().flatten(1).mean(1) / 4
        by_steps = {
            f"nats_{count}": Diagnostic(
                -self.token_likelihood(tokens, labels, count) / length,
                f"Nats per token, {count} steps",
                "negative log-likelihood of held-out tokens when sampled in that many steps",
            )
            for count in sorted(steps & set(range(length + 1)))
        }
        return {
            **by_steps,
            "unigram": Diagnostic(
                -log_frequencies[self.tokenizer.quantizer.to_codes(tokens)].mean(1),
                "Nats per token, by frequency",
                "the baseline: every code by its frequency alone",
            ),
            "psnr": Diagnostic(
                -10 * error.clamp(min=1e-10).log10(),
                "Reconstruction, dB",
                "peak signal-to-noise ratio of held-out images encoded to tokens and decoded",
            ),
            "codes": Diagnostic(
                self.tokenizer.usage.expand(len(images)),
                "Codes in use",
                "fraction of the tokenizer's codes that occurred at the end of its training",
            ),
        }

    def labels_or_no_class(self, labels: Tensor | None, count: int) -> Tensor:
        """The labels (B,), or the label that means no class for each of `count` rows."""
        if labels is not None:
            return labels
        return torch.full((count,), len(self.classes), device=self.tokenizer.frequencies.device)

    def _decode(self, values: Tensor) -> Tensor:
        """Values (B, side², len(factors)) of the prior → images."""
        return self.harden(self.tokenizer.decode(self.prior.to_tokens(values)))

    def _in_fixed_batches(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Apply `work` to tensors of the same length, on a CPU in batches of `min_batch` rows, the last one padded.

        On a CPU the result of a matrix product depends, in its last digits, on the number of rows; a token that lies on
        the edge of its interval could become another one. Batches of one size make a row independent of the batch.
        """
        if rows[0].device.type != "cpu" or torch.compiler.is_compiling() or len(rows[0]) == 0:
            return work(*rows)
        count = len(rows[0])
        results = []
        for start in range(0, count, self.min_batch):
            indices = torch.arange(start, start + self.min_batch).clamp(max=count - 1)
            results.append(work(*(tensor[indices] for tensor in rows))[: count - start])
        return torch.cat(results)


def build_prior(config: TransformerConfig) -> Prior:
    """The prior of a configuration, with new weights."""
    kind: type[AnyOrderPrior | CausalPrior] = CausalPrior if config.raster else AnyOrderPrior
    return kind(
        config.levels,
        config.side,
        len(config.classes),
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        dropout=config.dropout,
    )


def _by_position(noise: Tensor) -> Tensor:
    """Noise (B, d, side, side) → (B, side², d)."""
    return noise.flatten(2).transpose(1, 2)
