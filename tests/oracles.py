"""Slow, independent oracles: every equation of MixedAE as plain NumPy loops in float64.

Written from the method's equations and the public signatures only, without reading the code under test, so that the
two can be compared. Nothing here is fast, batched or differentiable, and nothing is imported from the package.

Shapes: G groups, g images in a group, L patches, P patch size, D width, H heads, d head width, N tokens with prefix.
"""

import math

import numpy as np

LN_EPS = 1e-6  # LayerNorm epsilon of the ViT family that MAE belongs to


# ----------------------------------------------------------------------------------------------------------- patches
def patchify(images: np.ndarray, patch_size: int) -> np.ndarray:
    """(B, 3, H, W) -> (B, L, P*P*3); grid row by row, inside a patch (row, column, channel)."""
    batch, channels, height, width = images.shape
    rows, cols = height // patch_size, width // patch_size
    out = np.zeros((batch, rows * cols, patch_size * patch_size * channels), dtype=np.float64)
    for b in range(batch):
        for gy in range(rows):
            for gx in range(cols):
                k = 0
                for y in range(patch_size):
                    for x in range(patch_size):
                        for c in range(channels):
                            out[b, gy * cols + gx, k] = images[b, c, gy * patch_size + y, gx * patch_size + x]
                            k += 1
    return out


def sincos_table(dim: int, grid: tuple[int, int], num_prefix_tokens: int = 0) -> np.ndarray:
    """MAE's fixed 2-D sin-cos table for a grid (h, w), rows of zeros for the prefix tokens: (prefix + h*w, dim).

    First half of the channels encodes the column, second half the row; in each half dim/4 sines, then dim/4 cosines
    with frequencies 10000^(-k / (dim/4)).
    """
    rows, cols = grid
    quarter = dim // 4
    table = np.zeros((num_prefix_tokens + rows * cols, dim))
    for y in range(rows):
        for x in range(cols):
            for k in range(quarter):
                omega = 1.0 / 10000 ** (k / quarter)
                row = table[num_prefix_tokens + y * cols + x]
                row[k], row[quarter + k] = math.sin(x * omega), math.cos(x * omega)
                row[2 * quarter + k], row[3 * quarter + k] = math.sin(y * omega), math.cos(y * omega)
    return table


# ------------------------------------------------------------------------------------------------------------ mixing
def mix(patches: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Eq 1, 2: the mixed sample's patch l is the patch l of image M_l. (G, g, L, C), (G, L) -> (G, L, C)."""
    groups, _, length, channels = patches.shape
    out = np.zeros((groups, length, channels))
    for a in range(groups):
        for pos in range(length):
            out[a, pos] = patches[a, mask[a, pos], pos]
    return out


def unmix(tokens: np.ndarray, mask: np.ndarray, group_size: int, mask_token: np.ndarray) -> np.ndarray:
    """Eq 3, 4: sequence i keeps the tokens where M = i and holds the mask token elsewhere. -> (G, g, L, D)."""
    groups, length, dim = tokens.shape
    out = np.zeros((groups, group_size, length, dim))
    for a in range(groups):
        for i in range(group_size):
            for pos in range(length):
                out[a, i, pos] = tokens[a, pos] if mask[a, pos] == i else mask_token
    return out


# --------------------------------------------------------------------------------------------------------- attention
def kept_keys(scores: np.ndarray, topk: int, num_prefix_tokens: int, cls: str) -> np.ndarray:
    """Which keys each query sees: bool, scores' shape (B, H, N, N). `scores` decides, ties to the lowest index."""
    batch, heads, n, _ = scores.shape
    keep = np.zeros(scores.shape, dtype=bool)
    first = num_prefix_tokens if cls == 'keep' else 0
    for b in range(batch):
        for h in range(heads):
            for query in range(n):
                if cls == 'keep' and query < num_prefix_tokens:
                    keep[b, h, query] = True  # a prefix query attends to everything
                    continue
                order = sorted(range(first, n), key=lambda j: (-scores[b, h, query, j], j))
                keep[b, h, query, :first] = True  # a prefix key is always visible and takes no slot
                for j in order[:topk]:
                    keep[b, h, query, j] = True
    return keep


def attention_scores(q: np.ndarray, k: np.ndarray, scale: float | None = None) -> np.ndarray:
    """q kᵀ · scale, scale = 1/√d when not given: (B, H, N, N)."""
    batch, heads, n, dim = q.shape
    scale = 1.0 / math.sqrt(dim) if scale is None else scale
    out = np.zeros((batch, heads, n, k.shape[2]))
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                for j in range(k.shape[2]):
                    out[b, h, i, j] = scale * float(np.dot(q[b, h, i], k[b, h, j]))
    return out


def softmax_over(scores: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Softmax along the last axis over the kept entries only, 0 elsewhere."""
    out = np.zeros(scores.shape)
    for index in np.ndindex(*scores.shape[:-1]):
        kept = np.flatnonzero(keep[index])
        values = scores[index][kept]
        weights = np.exp(values - values.max())
        out[index][kept] = weights / weights.sum()
    return out


def topk_attention(q, k, v, topk, *, num_prefix_tokens=1, cls='keep', scale=None, keep=None) -> np.ndarray:
    """Eq 6: softmax(TopK(q kᵀ / √d)) v. `keep` overrides the selection (to hold it fixed in finite differences)."""
    scores = attention_scores(q, k, scale)
    if keep is None:
        keep = kept_keys(scores, topk, num_prefix_tokens, cls)
    weights = softmax_over(scores, keep)
    out = np.zeros(q.shape[:3] + (v.shape[-1],))
    for b, h, i in np.ndindex(*q.shape[:3]):
        for j in range(k.shape[2]):
            out[b, h, i] += weights[b, h, i, j] * v[b, h, j]
    return out


def topk_attention_grad(q, k, v, grad_out, topk, *, num_prefix_tokens=1, cls='keep', scale=None):
    """Hand-derived gradient of Eq 6: returns (dq, dk, dv). Only kept scores carry gradient."""
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = attention_scores(q, k, scale)
    weights = softmax_over(scores, kept_keys(scores, topk, num_prefix_tokens, cls))
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    for b, h, i in np.ndindex(*q.shape[:3]):
        row = weights[b, h, i]
        d_weight = np.array([np.dot(grad_out[b, h, i], v[b, h, j]) for j in range(k.shape[2])])
        d_score = row * (d_weight - np.dot(row, d_weight))  # softmax; 0 where the weight is 0
        for j in range(k.shape[2]):
            dv[b, h, j] += row[j] * grad_out[b, h, i]
            dq[b, h, i] += factor * d_score[j] * k[b, h, j]
            dk[b, h, j] += factor * d_score[j] * q[b, h, i]
    return dq, dk, dv


# ------------------------------------------------------------------------------------------------------------ losses
def contrastive_loss(features, mask, temperature=0.25, positives='separate') -> float:
    """Eq 7 on (G, L, D) features, normalised here. Mean over positives, anchors and samples.

    'separate': each positive p of anchor l costs -log(exp(s_lp) / sum_{j != l} exp(s_lj)).
    'averaged': one term per anchor, the mean of the positives' probabilities inside the logarithm.
    """
    groups, length, _ = features.shape
    total, anchors = 0.0, 0
    for a in range(groups):
        unit = [f / math.sqrt(float(np.dot(f, f))) for f in features[a]]
        for anchor in range(length):
            s = [float(np.dot(unit[anchor], unit[j])) / temperature for j in range(length)]
            denominator = sum(math.exp(s[j]) for j in range(length) if j != anchor)
            friends = [j for j in range(length) if j != anchor and mask[a, j] == mask[a, anchor]]
            probabilities = [math.exp(s[p]) / denominator for p in friends]
            if positives == 'separate':
                total += sum(-math.log(p) for p in probabilities) / len(friends)
            else:
                total += -math.log(sum(probabilities) / len(friends))
            anchors += 1
    return total / anchors


def contrastive_minimum(length: int, group_size: int, temperature: float = 0.25) -> float:
    """Lowest possible value of Eq 7 over all unit features.

    Reached when each image's patches coincide and the g images' directions form a regular simplex (cosine -1/(g-1)):
    ln[(rL - 1) + (L - rL) exp(-(1 + 1/(g-1)) / τ)]. For g = 2 the exponent is -2/τ.
    """
    own = length // group_size
    return math.log((own - 1) + (length - own) * math.exp(-(1 + 1 / (group_size - 1)) / temperature))


def normalise_patches(patches: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """MAE's target: each patch minus its mean, over the root of (unbiased variance + eps)."""
    out = np.zeros(patches.shape)
    for index in np.ndindex(*patches.shape[:-1]):
        values = patches[index]
        mean = sum(values) / len(values)
        variance = sum((x - mean) ** 2 for x in values) / (len(values) - 1)
        out[index] = (values - mean) / math.sqrt(variance + eps)
    return out


def reconstruction_loss(pred, target_patches, mask, normalize=True) -> float:
    """Mean squared error over the patches of image i that are not in the mix. pred, target (G, g, L, P*P*3)."""
    target = normalise_patches(target_patches) if normalize else target_patches
    groups, group_size, length, dim = pred.shape
    total, count = 0.0, 0
    for a in range(groups):
        for i in range(group_size):
            for pos in range(length):
                if mask[a, pos] != i:
                    total += sum((pred[a, i, pos, c] - target[a, i, pos, c]) ** 2 for c in range(dim)) / dim
                    count += 1
    return total / count


# ------------------------------------------------------------------------------------------------------------ meters
def topk_accuracy(q, k, mask, topk, *, num_prefix_tokens=1, cls='keep') -> np.ndarray:
    """Share of the patch queries' kept patch keys that come from the query's image: (H,)."""
    keep = kept_keys(attention_scores(q, k), topk, num_prefix_tokens, cls)
    groups, heads, n, _ = keep.shape
    own, kept = np.zeros(heads), np.zeros(heads)
    for a, h, i, j in np.ndindex(groups, heads, n, n):
        if i >= num_prefix_tokens and j >= num_prefix_tokens and keep[a, h, i, j]:
            kept[h] += 1
            own[h] += mask[a, i - num_prefix_tokens] == mask[a, j - num_prefix_tokens]
    return own / kept


def own_image_attention(q, k, mask, topk=None, *, num_prefix_tokens=1, cls='keep') -> np.ndarray:
    """Share of a patch query's attention mass on patch keys that falls on its own image, mean over queries: (H,).

    `topk=None`: plain softmax over all keys.
    """
    scores = attention_scores(q, k)
    keep = np.ones(scores.shape, bool) if topk is None else kept_keys(scores, topk, num_prefix_tokens, cls)
    weights = softmax_over(scores, keep)
    groups, heads, n, _ = weights.shape
    out = np.zeros(heads)
    for h in range(heads):
        shares = []
        for a in range(groups):
            for i in range(num_prefix_tokens, n):
                row = weights[a, h, i, num_prefix_tokens:]
                own = sum(row[j] for j in range(len(row)) if mask[a, j] == mask[a, i - num_prefix_tokens])
                shares.append(own / row.sum())
        out[h] = sum(shares) / len(shares)
    return out


# ------------------------------------------------------------------------------------------------------ whole models
def linear(x, state, name):
    """x Wᵀ + b with the weights called `name` in the state dict."""
    out = x @ np.asarray(state[f'{name}.weight'], dtype=np.float64).T
    return out + state[f'{name}.bias'] if f'{name}.bias' in state else out


def layer_norm(x, state, name):
    """LayerNorm over the last axis."""
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + LN_EPS) * state[f'{name}.weight'] + state[f'{name}.bias']


def gelu(x):
    """Exact GELU, x Φ(x)."""
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def block(x, state, name, num_heads, topk=None, cls='keep', num_prefix_tokens=1):
    """Pre-norm transformer block on (N, D); TopK attention when `topk` is given."""
    n, dim = x.shape
    qkv = linear(layer_norm(x, state, f'{name}.norm1'), state, f'{name}.attn.qkv')
    head_dim = dim // num_heads
    parts = []
    for part in range(3):  # q, k, v; inside each, heads one after another
        per_head = [qkv[:, part * dim + h * head_dim : part * dim + (h + 1) * head_dim] for h in range(num_heads)]
        parts.append(np.stack(per_head)[None])  # (1, H, N, d)
    keep = np.ones((1, num_heads, n, n), bool) if topk is None else None
    out = topk_attention(*parts, topk or 0, num_prefix_tokens=num_prefix_tokens, cls=cls, keep=keep)[0]
    x = x + linear(np.concatenate(list(out), axis=-1), state, f'{name}.attn.proj')
    hidden = gelu(linear(layer_norm(x, state, f'{name}.norm2'), state, f'{name}.mlp.fc1'))
    return x + linear(hidden, state, f'{name}.mlp.fc2')


def embed_patches(patches, state, patch_size):
    """The patch embedding's convolution as one product per patch: (L, P*P*3) -> (L, D)."""
    weight = np.asarray(state['encoder.patch_embed.proj.weight'], np.float64)  # (D, 3, P, P)
    out = np.zeros((len(patches), weight.shape[0]))
    for pos, patch in enumerate(patches):
        pixels = patch.reshape(patch_size, patch_size, 3).transpose(2, 0, 1)  # (3, P, P)
        out[pos] = (weight * pixels).sum((1, 2, 3))
    return out + state['encoder.patch_embed.proj.bias']


def _depth(state, prefix):
    return 1 + max(int(k[len(prefix) :].split('.')[0]) for k in state if k.startswith(prefix))


def _decode(tokens_with_cls, visible, state, *, names, num_heads, grid, use_cls):
    """MAE's decoder for one image: own tokens at `visible`, the mask token elsewhere -> (L, P*P*3).

    tokens_with_cls: dict position -> decoder-width token, 'cls' -> decoder-width token.
    """
    length = grid[0] * grid[1]
    mask_token = np.asarray(state[names['mask_token']], np.float64).reshape(-1)
    rows = [tokens_with_cls[pos] if pos in visible else mask_token for pos in range(length)]
    x = np.stack(rows) + sincos_table(mask_token.size, grid)
    if use_cls:
        x = np.concatenate([tokens_with_cls['cls'][None], x])
    for i in range(_depth(state, names['blocks'])):
        x = block(x, state, f'{names["blocks"]}{i}', num_heads)
    x = linear(layer_norm(x, state, names['norm']), state, names['pred'])
    return x[1:] if use_cls else x


DECODER_NAMES = dict(
    embed='decoder.embed',
    mask_token='decoder.mask_token',
    blocks='decoder.blocks.',
    norm='decoder.norm',
    pred='decoder.pred',
)


def mixedae_forward(
    state,
    images,
    mask,
    *,
    patch_size,
    num_heads,
    decoder_heads,
    topk,
    cls='keep',
    global_layers=(0,),
    segment_embed=True,
    decoder_cls=True,
    norm_pix=True,
    temperature=0.25,
    contrastive_weight=0.1,
    positives='separate',
    feature='after_norm',
    names=None,
):
    """One whole MixedAE forward for one mask per group.

    images (G, g, 3, H, W) as the encoder sees them (already normalised), mask (G, L); in full mode the caller repeats
    a group once per draw. Returns dict(pred (G, g, L, P*P*3), features (G, L, D), loss_recon, contrastive, loss).
    """
    names = DECODER_NAMES if names is None else names
    state = {k: np.asarray(v, dtype=np.float64) for k, v in state.items()}
    groups, g, _, height, width = images.shape
    grid = (height // patch_size, width // patch_size)
    dim = state['encoder.cls_token'].size
    pos_table = sincos_table(dim, grid, 1)
    patches = np.stack([patchify(images[a], patch_size) for a in range(groups)])  # (G, g, L, P*P*3)
    mixed = mix(patches, mask)
    pred, features = [], []
    for a in range(groups):
        x = embed_patches(mixed[a], state, patch_size) + pos_table[1:]
        if segment_embed:
            segments = state['encoder.segment_embed']
            segments = segments - segments.mean(0)  # zero mean over the group
            for pos in range(len(x)):
                x[pos] += segments[mask[a, pos]]
        x = np.concatenate([state['encoder.cls_token'].reshape(1, dim) + pos_table[:1], x])
        for i in range(_depth(state, 'encoder.blocks.')):
            x = block(x, state, f'encoder.blocks.{i}', num_heads, None if i in global_layers else topk, cls)
        before_norm = x
        x = layer_norm(x, state, 'encoder.norm')
        features.append((before_norm if feature == 'before_norm' else x)[1:])
        small = linear(x, state, names['embed'])
        tokens = {pos: small[1 + pos] for pos in range(len(small) - 1)}
        tokens['cls'] = small[0]
        pred.append(
            [
                _decode(
                    tokens,
                    {pos for pos in range(len(mixed[a])) if mask[a, pos] == i},
                    state,
                    names=names,
                    num_heads=decoder_heads,
                    grid=grid,
                    use_cls=decoder_cls,
                )
                for i in range(g)
            ]
        )
    pred, features = np.array(pred), np.array(features)
    recon = reconstruction_loss(pred, patches, mask, norm_pix)
    out = dict(pred=pred, features=features, loss_recon=recon, loss=recon)
    projector = [k[: -len('.weight')] for k in state if k.startswith('projector') and k.endswith('.weight')]
    if projector:
        projected = linear(features, state, projector[0])
        out['contrastive'] = contrastive_loss(projected, mask, temperature, positives)
        out['loss'] = recon + contrastive_weight * out['contrastive']
    return out


def mae_forward(state, images, hidden, *, patch_size, num_heads, decoder_heads, norm_pix=True, names=None):
    """One whole MAE forward. images (B, 3, H, W); hidden (B, L) bool, True where a patch is masked.

    The encoder sees the visible tokens only; the loss is the mean over the masked patches.
    """
    names = DECODER_NAMES if names is None else names
    state = {k: np.asarray(v, dtype=np.float64) for k, v in state.items()}
    grid = (images.shape[2] // patch_size, images.shape[3] // patch_size)
    dim = state['encoder.cls_token'].size
    pos_table = sincos_table(dim, grid, 1)
    patches = patchify(images, patch_size)
    pred, total, count = [], 0.0, 0
    for b in range(len(images)):
        visible = [pos for pos in range(patches.shape[1]) if not hidden[b, pos]]
        x = embed_patches(patches[b, visible], state, patch_size) + pos_table[[1 + pos for pos in visible]]
        x = np.concatenate([state['encoder.cls_token'].reshape(1, dim) + pos_table[:1], x])
        for i in range(_depth(state, 'encoder.blocks.')):
            x = block(x, state, f'encoder.blocks.{i}', num_heads)
        small = linear(layer_norm(x, state, 'encoder.norm'), state, names['embed'])
        tokens = {pos: small[1 + rank] for rank, pos in enumerate(visible)}
        tokens['cls'] = small[0]
        pred.append(_decode(tokens, set(visible), state, names=names, num_heads=decoder_heads, grid=grid, use_cls=True))
        target = normalise_patches(patches[b]) if norm_pix else patches[b]
        for pos in range(patches.shape[1]):
            if hidden[b, pos]:
                total += float(((pred[b][pos] - target[pos]) ** 2).mean())
                count += 1
    return dict(pred=np.array(pred), loss=total / count)


# ------------------------------------------------------------------------------------------------------------- tools
def finite_difference(function, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a scalar function at x, one entry at a time."""
    grad = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (function(up) - function(down)) / (2 * step)
    return grad


def random_mask(rng: np.random.Generator, groups: int, length: int, group_size: int) -> np.ndarray:
    """A balanced mask (G, L) drawn without the code under test."""
    base = np.repeat(np.arange(group_size), length // group_size)
    return np.stack([rng.permutation(base) for _ in range(groups)])
