"""Attention with relative positions, windows and padding, written out score by score in float64."""

import numpy as np


def softmax_attention(q, keys, values, bias):
    """One query (d,) against keys (n, d) with a bias (n,) on the scaled scores."""
    scores = np.array([q @ k for k in keys]) / np.sqrt(len(q)) + bias
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()) @ values


def table_entry(table, grid, query, key):
    """BEiT's table at (query, key), places (y, x), or 'cls'. ``table`` (rows, H); returns (H,)."""
    height, width = grid
    if query == 'cls' or key == 'cls':
        return table[{(True, False): -3, (False, True): -2, (True, True): -1}[query == 'cls', key == 'cls']]
    dy, dx = query[0] - key[0], query[1] - key[1]
    return table[(dy + height - 1) * (2 * width - 1) + dx + width - 1]


def decomposed_entry(q, rel_pos_h, rel_pos_w, grid, query, key):
    """``q . Rh[y - v] + q . Rw[x - u]``; 0 where [CLS] takes part. Tables (2h-1, d), (2w-1, d)."""
    if query == 'cls' or key == 'cls':
        return 0.0
    dy, dx = query[0] - key[0], query[1] - key[1]
    return q @ rel_pos_h[dy + grid[0] - 1] + q @ rel_pos_w[dx + grid[1] - 1]


def spatial_attention(x, weights, num_heads, grid, *, cls=True, window=None, window_padding='mask', padded=None):
    """Equals ``SpatialAttention.forward``: tokens (B, prefix + h*w, D), ``weights`` its state dict as arrays.

    Every query collects its keys by name: a place (y, x) of the grid, a place outside it, or [CLS].
    """
    batch, _, dim = x.shape
    width = dim // num_heads
    places = (['cls'] if cls else []) + [(y, x_) for y in range(grid[0]) for x_ in range(grid[1])]
    table_grid = (window, window) if window else grid
    out = np.zeros_like(x)
    for b in range(batch):
        qkv = {place: weights['qkv.weight'] @ x[b, i] + weights['qkv.bias'] for i, place in enumerate(places)}
        left_out = set() if padded is None else {places[int(cls) + i] for i in np.flatnonzero(padded[b])}
        for i, query in enumerate(places):
            keys = [key for key in places if key not in left_out]
            if window and query != 'cls':
                rows = range(query[0] // window * window, query[0] // window * window + window)
                columns = range(query[1] // window * window, query[1] // window * window + window)
                keys = ['cls'] if cls else []
                for key in ((y, x_) for y in rows for x_ in columns):
                    inside = key[0] < grid[0] and key[1] < grid[1]
                    if inside and key not in left_out:
                        keys.append(key)
                    elif not inside and window_padding == 'zeros':
                        qkv[key] = weights['qkv.bias']
                        keys.append(key)
            if not keys:  # a padded place in a window of padded places
                continue
            for head in range(num_heads):
                part = [slice(j * dim + head * width, j * dim + (head + 1) * width) for j in range(3)]
                q = qkv[query][part[0]]
                bias = np.zeros(len(keys))
                if 'relative_position_bias_table' in weights:
                    table = weights['relative_position_bias_table']
                    bias += [table_entry(table, table_grid, query, key)[head] for key in keys]
                if 'rel_pos_h' in weights:
                    rel = weights['rel_pos_h'], weights['rel_pos_w']
                    bias += [decomposed_entry(q, *rel, table_grid, query, key) for key in keys]
                k, v = (np.array([qkv[key][p] for key in keys]) for p in part[1:])
                out[b, i, part[0]] = softmax_attention(q, k, v, bias)
    return out @ weights['proj.weight'].T + weights['proj.bias']
