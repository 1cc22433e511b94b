"""Noise → tokens → picture, and back; filling; likelihoods."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from imggen.errors import UsageError
from imggen.models.base import PLAIN, Backend, Diagnostic, Inversion, class_log_frequencies
from imggen.models.config import SamplingOptions
from imggen.models.transformer.any_order_prior import AnyOrderPrior
from imggen.models.transformer.causal_prior import CausalPrior
from imggen.models.transformer.config import TransformerConfig
from imggen.models.transformer.cuda_graphs import CudaGraphCache
from imggen.models.transformer.fast_prior import FastPrior
from imggen.models.transformer.generation_order import groups_of, halton, schedule
from imggen.models.transformer.hole_edges import seamless, spread
from imggen.models.transformer.prior import Prior
from imggen.models.transformer.sampling import ordered, walk
from imggen.models.transformer.tokenizer import Tokenizer

# On a CPU always so many rows at a time, the last ones repeated: matrices of one shape are multiplied in one way, so
# that no rounding that depends on the batch can make a token another one. A block of a large prior has fewer rows,
# lest one picture cost as much as sixteen.
MOST_ROWS = 16
BLOCK_COST = 8e9  # multiplications
MOST_HIDDEN = 0.35  # of a token's patch, for it to be known
FEW_STEPS = (1, 4)  # that evaluate prints the likelihood of, beside the model's own number and one by one


class TransformerBackend(Backend):
    """A tokenizer and a prior over its tokens.

    Noise is (d, side, side): a number for each of the d channels of each token.
    """

    config: TransformerConfig
    supported: ClassVar[frozenset[str]] = frozenset({"temperature", "steps", "guidance", "top_k", "top_p"})
    needs_full_precision: ClassVar[bool] = True

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.tokenizer = Tokenizer(config)
        self.prior: Prior = build_prior(config)
        self.recorder: CudaGraphCache | None = None

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """(channels of a token, side, side)."""
        return (len(self.prior.factors), self.prior.side, self.prior.side)

    @property
    def steps(self) -> int:
        """Groups that a picture is drawn in unless --steps says otherwise: two for each row of tokens."""
        return self.prior.length if self.config.raster else min(2 * self.prior.side, self.prior.length)

    def for_inference(self) -> TransformerBackend:
        """See the contract: the prior as `Quick`, and on an NVIDIA GPU what is drawn again and again as a graph."""
        if not isinstance(self.prior, AnyOrderPrior):
            return self
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        assert isinstance(fast.prior, AnyOrderPrior)
        fast.prior = FastPrior(fast.prior)
        fast.recorder = CudaGraphCache()
        return fast

    def check_options(self, options: SamplingOptions) -> None:
        """Raise UsageError for steps of a raster-order model, and for guidance of a model without classes to drop."""
        super().check_options(options)
        if self.config.raster and options.steps not in (None, self.steps):
            raise UsageError("this transformer generates one token at a time", "leave --steps out")
        if options.guidance != 1 and (not self.classes or self.config.drop_label == 0):
            reason = "was trained without --drop-label" if self.classes else "has no classes"
            raise UsageError(f"guidance needs class labels, and this model {reason}", "leave --guidance out")

    def generate(self, noise: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Tensor:
        """Sample tokens group by group and decode them; the temperature divides the logits of every channel."""
        labels = self.labels_or_none(self._check_labels(labels, len(noise)), len(noise))
        plan = self._plan(options)

        def draw(noise: Tensor, labels: Tensor, order: Tensor) -> Tensor:
            tokens = walk(self.prior, labels, plan, options, noise=_by_place(noise), order=order).tokens
            return self._decode(tokens)

        order = ordered(plan, noise.device)
        if self.recorder is not None and noise.device.type == "cuda" and len(noise):
            return self.recorder(options, draw, noise, labels, order)
        return self._in_blocks(lambda noise, labels: draw(noise, labels, order), noise, labels)

    def invert(self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN) -> Inversion:
        """Find the noise that generates exactly the tokens of the images, with these options at temperature 1.

        Raises UsageError with top_k or top_p: some tokens can then not be generated at all.
        """
        if options.top_k or options.top_p < 1:
            raise UsageError("with --top-k or --top-p some images cannot be generated by any noise", "leave them out")
        if labels is None and self.classes:
            labels = self._likely_labels(images)
        labels_or_none = self.labels_or_none(self._check_labels(labels, len(images)), len(images))
        options, plan = replace(options, temperature=1.0), self._plan(options)

        def find(images: Tensor, labels: Tensor) -> Tensor:
            known = self.values(self.tokenizer.encode(images))
            return self._by_channel(walk(self.prior, labels, plan, options, known=known).noise)

        return Inversion(self._in_blocks(find, images, labels_or_none), labels)

    def inpaint(
        self,
        images: Tensor,
        mask: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        options: SamplingOptions = PLAIN,
    ) -> Tensor:
        """See the contract. Tokens of which too much is hidden are drawn, the others are the prefix.

        Without labels a model with classes draws as one without. The textbook's prior sees of the known tokens only
        those before, in raster order.
        """
        if labels is None and self.classes and self.config.drop_label == 0:
            labels = self._likely_labels(images, mask)  # what "no class" means was never learnt
        labels = None if labels is None else self._check_labels(labels, len(images))
        labels = self.labels_or_none(labels, len(images))
        holes = self.unknown(mask)
        carried = spread(images, mask, self.tokenizer.patch)
        filled = images.clone()
        # Rows with holes in the same places are drawn together.
        patterns = [tuple(pattern) for pattern in holes.tolist()]
        holed = self.touched(mask).any(1).tolist()
        for pattern in dict.fromkeys(pattern for pattern, any_ in zip(patterns, holed, strict=True) if any_):
            plan = self._plan(options, [place for place, hole in enumerate(pattern) if hole])
            given = frozenset(place for place, hole in enumerate(pattern) if not hole)

            def draw(
                images: Tensor,
                noise: Tensor,
                labels: Tensor,
                plan: list[list[int]] = plan,
                given: frozenset[int] = given,
            ) -> Tensor:
                known = self.values(self.tokenizer.encode(images))
                found = walk(self.prior, labels, plan, options, noise=_by_place(noise), known=known, given=given)
                return self._decode(found.tokens)

            rows = torch.tensor([row for row, other in enumerate(patterns) if other == pattern], device=images.device)
            filled[rows] = self._in_blocks(draw, carried[rows], noise[rows], labels[rows])
        return torch.where(mask > 0.5, seamless(filled, images, mask), images)

    def touched(self, mask: Tensor) -> Tensor:
        """Masks (B, 1, H, W) → which tokens (B, side²) have something hidden.

        The encoder sees nothing but a token's own patch, so all the others are what they would be without the hole.
        """
        return self._hidden(mask) > 0

    def unknown(self, mask: Tensor) -> Tensor:
        """Masks (B, 1, H, W) → which tokens (B, side²) are to be drawn.

        Not those of which little is hidden: what is known of the patch, carried on into the hole, says more of them
        than all other tokens do. Of a hole that hides no patch that far, those of which most is hidden are drawn: one
        fill is not to be like the other.
        """
        hidden = self._hidden(mask)
        most = hidden.amax(1, keepdim=True)
        return (hidden > MOST_HIDDEN) | ((hidden > most / 2) & (most <= MOST_HIDDEN))

    def _hidden(self, mask: Tensor) -> Tensor:
        return avg_pool2d((mask > 0.5).float(), self.tokenizer.patch).flatten(1)

    def reconstruct(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """See the contract: what is left of a picture in its tokens, whatever its class."""
        return self._in_blocks(lambda rows: self.tokenizer.decode(self.tokenizer.encode(rows)), images)

    @property
    def binarized(self) -> bool:
        """False: the likelihood is that of images with 256 levels."""
        return False

    def log_likelihood(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """log p(tokens) + log p(picture | tokens) in nats, (B,), tokens one by one: a bound from below.

        The sum over all tokens that could draw the picture would be its probability; this is one of its terms.
        """
        labels = self.labels_or_none(self._check_labels(labels, len(images)), len(images))
        tokens = self.tokenizer.encode(images)
        return self.tokenizer.log_likelihood(images, tokens) + self.token_likelihood(tokens, labels, self.prior.length)

    def token_likelihood(self, tokens: Tensor, labels: Tensor, steps: int) -> Tensor:
        """log p(tokens) in nats, (B,), as they are drawn in `steps` steps; tokens (B, side², d) of the tokenizer."""
        groups = groups_of(self._plan(SamplingOptions(steps=steps)), self.prior.length, tokens.device).expand(
            len(tokens), -1
        )
        found = self.prior.log_probabilities(self.values(tokens), labels, groups)
        return found.flatten(1).sum(1)

    def _likely_labels(self, images: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """See the contract: by frequency, and by the likelihood of the tokens that no hole touches."""
        if not self.classes:
            return None
        tokens = self.tokenizer.encode(images)
        groups = groups_of(self._plan(SamplingOptions(steps=self.steps)), self.prior.length, tokens.device).expand(
            len(tokens), -1
        )
        known = torch.ones_like(groups, dtype=torch.bool) if mask is None else ~self.touched(mask)
        if not self.config.raster:  # the textbook's order cannot be changed
            # What is hidden comes last, so that nothing known is judged by it.
            groups = torch.where(known, groups, groups + self.prior.length)
        found = []
        for label in range(len(self.classes)):
            labels = torch.full_like(tokens[:, 0, 0], label)
            nats = self.prior.log_probabilities(self.values(tokens), labels, groups).sum(-1)
            found.append((nats * known).sum(1))
        return (torch.stack(found, 1) + class_log_frequencies(self.config, images.device)).argmax(1)

    def diagnostics(
        self, images: Tensor, labels: Tensor | None = None, options: SamplingOptions = PLAIN
    ) -> dict[str, Diagnostic]:
        """Nats per token by number of steps and by frequency alone, reconstruction PSNR, and the codes in use."""
        labels = self.labels_or_none(self._check_labels(labels, len(images)), len(images))
        tokens, length = self.tokenizer.encode(images), self.prior.length
        counted = self.tokenizer.frequencies + 0.5
        logarithms = torch.log(counted / counted.sum())
        steps = {length} if self.config.raster else {length, self.steps, options.steps or 1, *FEW_STEPS}
        counts = sorted(steps & set(range(length + 1)))
        error = (self.tokenizer.decode(tokens) - images).square().flatten(1).mean(1) / 4
        by_steps = {
            f"nats_{steps}": Diagnostic(
                -self.token_likelihood(tokens, labels, steps) / length,
                f"Nats per token, {steps} steps",
                "negative log-likelihood of held-out tokens when sampled in that many steps",
            )
            for steps in counts
        }
        return {
            **by_steps,
            "unigram": Diagnostic(
                -logarithms[self.tokenizer.quantiser.join(tokens)].mean(1),
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

    def labels_or_none(self, labels: Tensor | None, count: int) -> Tensor:
        """Labels (B,), or that of no class for each of `count` rows."""
        if labels is not None:
            return labels
        return torch.full((count,), len(self.classes), device=self.tokenizer.frequencies.device)

    def _plan(self, options: SamplingOptions = PLAIN, unknown: list[int] | None = None) -> list[list[int]]:
        """Groups of places: those that are known first, then the others; each in raster order for the textbook."""
        length = self.prior.length
        if self.config.raster:
            return [[place] for place in range(length)]
        steps = options.steps or self.steps
        order = halton(self.prior.side)
        if unknown is None:
            return schedule(order, steps)
        holes = set(unknown)
        known = [place for place in order if place not in holes]
        # A hole of half the picture takes half the steps.
        share = max(1, round(steps * len(holes) / length))
        return [*([known] if known else []), *schedule(tuple(p for p in order if p in holes), share)]

    def values(self, tokens: Tensor) -> Tensor:
        """The tokenizer's tokens (B, side², d) as the prior has them: the textbook's are whole codes, (B, side², 1)."""
        return self.tokenizer.quantiser.join(tokens).unsqueeze(-1) if self.config.raster else tokens

    def _decode(self, values: Tensor) -> Tensor:
        tokens = self.tokenizer.quantiser.split(values[..., 0]) if self.config.raster else values
        return self.tokenizer.decode(tokens)

    @cached_property
    def min_batch(self) -> int:
        """Rows of a block, a power of two."""
        if self.config.raster:
            return MOST_ROWS  # of one token a row and step: reading the weights takes as long as working with them
        cost = self.prior.length * sum(weight.numel() for weight in self.prior.parameters())
        return 1 << min(MOST_ROWS, max(1, int(BLOCK_COST / cost))).bit_length() - 1

    def _in_blocks(self, work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """`work` on rows of tensors, on a CPU in blocks of one size."""
        count = len(rows[0])
        if rows[0].device.type != "cpu" or count == 0:
            return work(*rows)
        found = []
        for start in range(0, count, self.min_batch):
            places = torch.arange(start, start + self.min_batch).clamp(max=count - 1)
            found.append(work(*(part[places] for part in rows))[: count - start])
        return torch.cat(found)

    def _by_channel(self, noise: Tensor) -> Tensor:
        return noise.transpose(1, 2).reshape(len(noise), *self.noise_shape)


def build_prior(config: TransformerConfig) -> Prior:
    """The prior that a configuration asks for, with fresh weights."""
    kind: type[AnyOrderPrior | CausalPrior] = CausalPrior if config.raster else AnyOrderPrior
    return kind(
        (math.prod(config.levels),) if config.raster else config.levels,
        config.side,
        len(config.classes),
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        dropout=config.dropout,
    )


def _by_place(noise: Tensor) -> Tensor:
    return noise.flatten(2).transpose(1, 2)
