"""A CLIP with the parameter names that OpenAI and open_clip publish, in plain torch.

Of our own words, after openai/CLIP clip/model.py; compared by hand with the official code on the same weights.
"""

import torch
from torch import nn


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Mlp(nn.Sequential):
    """c_proj(act(c_fc(x)))."""

    def __init__(self, width: int, act: nn.Module):
        super().__init__()
        self.add_module("c_fc", nn.Linear(width, 4 * width))
        self.add_module("gelu", act)
        self.add_module("c_proj", nn.Linear(4 * width, width))


class Norm(nn.LayerNorm):
    """Layer norm that computes in float32 whatever goes in, as OpenAI's half-precision models do."""

    def forward(self, x):
        y = nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)
        return y.to(x.dtype)


class ResBlock(nn.Module):
    """Pre-norm block; `mask` is added to the attention's scores."""

    def __init__(self, width: int, heads: int, quick: bool, mask: torch.Tensor | None):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = Norm(width)
        self.mlp = Mlp(width, QuickGELU() if quick else nn.GELU())
        self.ln_2 = Norm(width)
        self.mask = mask

    def forward(self, x):
        mask = None
        if self.mask is not None:
            mask = self.mask[: x.shape[1], : x.shape[1]].to(x.dtype)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """`resblocks`."""

    def __init__(self, width: int, depth: int, heads: int, quick: bool, mask: torch.Tensor | None = None):
        super().__init__()
        self.resblocks = nn.Sequential(*[ResBlock(width, heads, quick, mask) for _ in range(depth)])

    def forward(self, x):
        return self.resblocks(x)


class Visual(nn.Module):
    """The image tower; positions are resampled as open_clip does when it loads weights for another size."""

    def __init__(self, side: int, patch: int, width: int, depth: int, heads: int, out: int, quick: bool):
        super().__init__()
        self.grid = side // patch
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = Norm(width)
        self.transformer = Transformer(width, depth, heads, quick)
        self.ln_post = Norm(width)
        self.proj = nn.Parameter(torch.empty(width, out))

    def positions(self, h: int, w: int) -> torch.Tensor:
        if (h, w) == (self.grid, self.grid):
            return self.positional_embedding
        first, rest = self.positional_embedding[:1], self.positional_embedding[1:]
        grid = rest.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, (h, w), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([first, grid.flatten(2)[0].T])

    def forward(self, images):
        x = self.conv1(images)
        h, w = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positions(h, w).to(x.dtype))
        return self.ln_post(self.transformer(x))

    def embed(self, tokens):
        """The class token projected."""
        return tokens[:, 0] @ self.proj


class Text(nn.Module):
    """The text tower's parameters and forward pass; OpenAI's has them at the top of the model."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, out: int, quick: bool):
        super().__init__()
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.transformer = Transformer(width, depth, heads, quick, mask)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.ln_final = Norm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out))

    def encode_text(self, ids):
        dtype = self.text_projection.dtype
        x = self.token_embedding(ids).to(dtype) + self.positional_embedding[: ids.shape[1]].to(dtype)
        x = self.ln_final(self.transformer(x))
        return x[torch.arange(x.shape[0]), ids.argmax(dim=-1)] @ self.text_projection


SHAPE = dict(side=16, patch=4, width=128, depth=3, heads=2, out=48)
TEXT = dict(vocabulary=99, length=12, width=64, depth=2, heads=1, out=48)


class CLIP(Text):
    """Both towers with OpenAI's names; `scalars` adds what its archives also hold."""

    def __init__(self, quick: bool = True, scalars: bool = False):
        super().__init__(**TEXT, quick=quick)
        self.visual = Visual(**SHAPE, quick=quick)
        self.logit_scale = nn.Parameter(torch.empty(()))
        if scalars:
            self.register_buffer("input_resolution", torch.tensor(SHAPE["side"]))
            self.register_buffer("context_length", torch.tensor(TEXT["length"]))
            self.register_buffer("vocab_size", torch.tensor(TEXT["vocabulary"]))

    def encode_image(self, images):
        return self.visual.embed(self.visual(images))

    def forward(self, images, ids):
        """Logits per image (B, texts)."""
        image, text = self.encode_image(images), self.encode_text(ids)
        image = image / image.norm(dim=-1, keepdim=True)
        text = text / text.norm(dim=-1, keepdim=True)
        return self.logit_scale.exp() * image @ text.T


class CustomTextCLIP(nn.Module):
    """open_clip's: the text tower stands under `text`."""

    encode_image, forward = CLIP.encode_image, CLIP.forward

    def __init__(self, quick: bool = False):
        super().__init__()
        self.visual = Visual(**SHAPE, quick=quick)
        self.text = Text(**TEXT, quick=quick)
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_text(self, ids):
        return self.text.encode_text(ids)
