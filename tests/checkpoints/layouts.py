"""Small models with the parameter names of libraries that are not installed, each with a plain forward of its own.

Written from the published code: facebookresearch/mae (models_mae.py, models_vit.py), bytedance/ibot
(models/vision_transformer.py, models/head.py), open-mmlab/mmpretrain (models/backbones/vision_transformer.py,
models/utils/attention.py, models/necks/mae_neck.py), facebookresearch/detectron2 (modeling/backbone/vit.py,
modeling/backbone/utils.py). Nothing here uses the code under test.
"""

import torch
import torch.nn.functional as F
from torch import nn

DIM, DEPTH, HEADS, PATCH, SIDE = 32, 3, 2, 8, 32  # 4 x 4 patches
ARCH = dict(embed_dim=DIM, depth=DEPTH, num_heads=HEADS)


def norm():
    return nn.LayerNorm(DIM, eps=1e-6)


def randomise(model, seed=0):
    """Random values in every parameter, so that no two can be exchanged without being noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.data += 1
    model.eval()
    return model


def images(batch=2, height=SIDE, width=SIDE, channels=3, seed=5):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def attend(q, k, v, bias=None):
    """q, k, v (B, H, N, d) to (B, N, H*d)."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def heads_of(x):
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class PlainAttention(nn.Module):
    """``qkv``, ``proj``: MAE, iBOT, DINO, mmpretrain."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x):
        return self.proj(attend(*(heads_of(part) for part in self.qkv(x).chunk(3, dim=2))))


class PlainBlock(nn.Module):
    """``norm1, attn, norm2, mlp``, and with ``scale`` iBOT's ``gamma_1, gamma_2``."""

    def __init__(self, scale=False):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm(), PlainAttention(), norm(), Mlp()
        self.gamma_1 = nn.Parameter(torch.ones(DIM)) if scale else None
        self.gamma_2 = nn.Parameter(torch.ones(DIM)) if scale else None

    def forward(self, x):
        first = 1 if self.gamma_1 is None else self.gamma_1
        second = 1 if self.gamma_2 is None else self.gamma_2
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, name='proj'):
        super().__init__()
        self.add_module(name, nn.Conv2d(3, DIM, PATCH, PATCH))

    def forward(self, x):
        (projection,) = self.children()
        return projection(x).flatten(2).transpose(1, 2)


class MaeViT(nn.Module):
    """Encoder of ``models_mae.py`` and ``models_vit.py``, of iBOT and DINO."""

    def __init__(self, scale=False, masked_embed=False):
        super().__init__()
        self.patch_embed = Patches()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, DIM))
        self.blocks = nn.ModuleList(PlainBlock(scale) for _ in range(DEPTH))
        self.norm = norm()
        if masked_embed:
            self.masked_embed = nn.Parameter(torch.zeros(1, DIM))

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MaePretraining(MaeViT):
    """With the names of MAE's decoder."""

    def __init__(self):
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 17, DIM))
        self.decoder_embed = nn.Linear(DIM, DIM)
        self.decoder_blocks = nn.ModuleList([PlainBlock()])
        self.decoder_norm = norm()
        self.decoder_pred = nn.Linear(DIM, 3 * PATCH**2)


class Distillation(nn.Module):
    """``MultiCropWrapper`` of DINO and iBOT: ``backbone`` and ``head``."""

    def __init__(self, scale=False, masked_embed=False):
        super().__init__()
        self.backbone = MaeViT(scale, masked_embed)
        self.head = nn.Module()
        self.head.mlp = nn.Sequential(nn.Linear(DIM, 16), nn.GELU(), nn.Linear(16, 8))
        self.head.last_layer = nn.Linear(8, 20, bias=False)


class MmpretrainLayer(nn.Module):
    def __init__(self, scale=False):
        super().__init__()
        self.ln1, self.attn, self.ln2 = norm(), PlainAttention(), norm()
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU()), nn.Linear(4 * DIM, DIM))
        if scale:  # mmcv's LayerScale holds ``weight``
            self.attn.gamma1, self.ffn.gamma2 = nn.Module(), nn.Module()
            self.attn.gamma1.weight = nn.Parameter(torch.ones(DIM))
            self.ffn.gamma2.weight = nn.Parameter(torch.ones(DIM))
        self.scale = scale

    def forward(self, x):
        x = x + self.attn(self.ln1(x)) * (self.attn.gamma1.weight if self.scale else 1)
        return x + self.ffn.layers(self.ln2(x)) * (self.ffn.gamma2.weight if self.scale else 1)


class MmpretrainViT(nn.Module):
    def __init__(self, scale=False, final_norm=True):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, DIM))
        self.patch_embed = Patches('projection')
        self.layers = nn.ModuleList(MmpretrainLayer(scale) for _ in range(DEPTH))
        self.ln1 = norm() if final_norm else nn.Identity()

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x)


class MmpretrainMae(nn.Module):
    """Their self-supervisor: ``backbone``, ``neck``."""

    def __init__(self):
        super().__init__()
        self.backbone = MmpretrainViT()
        self.neck = nn.Module()
        self.neck.mask_token = nn.Parameter(torch.zeros(1, 1, DIM))
        self.neck.decoder_embed = nn.Linear(DIM, DIM)
        self.neck.decoder_blocks = nn.ModuleList([MmpretrainLayer()])


class VitdetAttention(PlainAttention):
    """Decomposed relative positions on maps ``(B, h, w, D)``."""

    def __init__(self, side):
        super().__init__()
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, DIM // HEADS))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, DIM // HEADS))

    def forward(self, x):
        height, width = x.shape[1:3]
        q, k, v = (heads_of(part) for part in self.qkv(x.flatten(1, 2)).chunk(3, dim=2))
        rows = torch.arange(height)[:, None] - torch.arange(height) + height - 1
        columns = torch.arange(width)[:, None] - torch.arange(width) + width - 1
        places = q.unflatten(2, (height, width))
        by_row = torch.einsum('bnhwc,hkc->bnhwk', places, self.rel_pos_h[rows])
        by_column = torch.einsum('bnhwc,wkc->bnhwk', places, self.rel_pos_w[columns])
        bias = (by_row[..., :, None] + by_column[..., None, :]).flatten(2, 3).flatten(3)
        return self.proj(attend(q, k, v, bias)).unflatten(1, (height, width))


class VitdetBlock(nn.Module):
    def __init__(self, window):
        super().__init__()
        self.norm1, self.norm2, self.mlp = norm(), norm(), Mlp()
        self.attn = VitdetAttention(window or SIDE // PATCH)
        self.window = window

    def forward(self, x):
        y = self.norm1(x)
        if self.window:
            batch, height, width, dim = y.shape
            side = self.window
            y = F.pad(y, (0, 0, 0, -width % side, 0, -height % side))
            rows, columns = y.shape[1] // side, y.shape[2] // side
            y = y.view(batch, rows, side, columns, side, dim).transpose(2, 3).reshape(-1, side, side, dim)
            y = self.attn(y).view(batch, rows, columns, side, side, dim).transpose(2, 3)
            y = y.reshape(batch, rows * side, columns * side, dim)[:, :height, :width]
        else:
            y = self.attn(y)
        x = x + y
        return x + self.mlp(self.norm2(x))


class Vitdet(nn.Module):
    """``backbone.net`` of detectron2's ViTDet: no [CLS], but its row in the position table; maps ``(B, D, h, w)``."""

    def __init__(self, windows=(3, 3, 0)):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, DIM))
        self.patch_embed = Patches()
        self.blocks = nn.ModuleList(VitdetBlock(window) for window in windows)

    def forward(self, x):
        side = SIDE // PATCH
        x = (self.patch_embed(x) + self.pos_embed[:, 1:]).unflatten(1, (side, side))
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)
