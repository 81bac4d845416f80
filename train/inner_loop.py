"""The inner loop of TTT layers: fast weights that take one gradient step every mini-batch of tokens.

Only the recurrence W -> W' over the mini-batches is sequential, so it alone is a loop, with a backward pass derived by
hand (`LinearScan`, `MlpScan`). The rest is done for all mini-batches at once under ordinary autograd. In TTT-Linear the
queries are rows of the same product as the keys: reading W costs no second pass over the stored states.

Shapes: N mini-batches of K tokens; G = batch * heads; d = head_dim. Tensors of tokens are [N, G, K, .]. A bias is a row
of its weights, met by a column of ones in the input; rows are padded to a multiple of 8 (`padded`).

With e_tj = tau_t * rate_j, g the gradient of 0.5 |LN(f(k)) - (v - k)|^2 with respect to f(k) at the W of the mini-batch's
start:   W' = W - sum_j e_{K-1,j} k_j^T g_j      and token t reads with   W - sum_{j<=t} e_tj k_j^T g_j.
"""
import torch
import torch.nn.functional as F

EPS = 1e-6  # of both LayerNorms of a TTT layer; not a setting
MAX_MATRICES = 60000  # of one batched product: some stop at 2^16

_compiled = {}
_compile_on = False


def enable_compile(on):
    """From now on the functions marked `fused` are compiled, or run as they are."""
    global _compile_on
    _compile_on = on


def fused(function):
    """Marks a free function of tensors and numbers for torch.compile; all layers share what is compiled."""
    def call(*args):
        if not _compile_on:
            return function(*args)
        if function not in _compiled:
            _compiled[function] = torch.compile(function, dynamic=False, fullgraph=True)
        return _compiled[function](*args)
    return call


def padded(rows):
    return (rows + 8) // 8 * 8  # room for the bias row


def with_ones(x):
    """[..., d] -> [..., padded(d)]: a column of ones after x, then zeros."""
    d = x.shape[-1]
    return F.pad(F.pad(x, (0, 1), value=1.0), (0, padded(d) - d - 1))


def with_bias(weight, bias):
    """[G, r, c], [G, 1, c] -> [G, padded(r), c]."""
    rows = weight.shape[1]
    return F.pad(torch.cat([weight, bias], 1), (0, 0, 0, padded(rows) - rows - 1))


def product(a, b):
    """a @ b for [N, G, ., .], in calls of a bounded number of matrices."""
    step = max(1, MAX_MATRICES // a.shape[1])
    if a.shape[0] <= step:
        return torch.matmul(a, b)
    return torch.cat([torch.matmul(x, y) for x, y in zip(a.split(step), b.split(step))])


def add_product(out, a, b, scale):
    """out += scale * a @ b in place, in calls of a bounded number of matrices."""
    step = max(1, MAX_MATRICES // a.shape[1])
    for i in range(0, a.shape[0], step):
        o, x, y = (t[i:i + step].flatten(0, 1) for t in (out, a, b))
        o.baddbmm_(x, y, alpha=scale)


# --- gradient of the inner loss ---------------------------------------------------------------------------------------
def layer_norm_gradient(z, target, gamma, beta):
    """g = d/dz 0.5 |LN(z) - target|^2, and what its own derivative needs."""
    centred = z - z.mean(-1, keepdim=True)
    r = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)
    x = centred * r
    a = gamma * (gamma * x + beta - target)
    return r * (a - a.mean(-1, keepdim=True) - x * (a * x).mean(-1, keepdim=True)), r, x, a


def layer_norm_gradient_vjp(u, z, target, gamma, beta):
    """(dz, q) for the gradient u that arrives at g; q is the gradient at `a` above, see layer_norm_parameter_gradients."""
    g, r, x, a = layer_norm_gradient(z, target, gamma, beta)
    ux, ax = (u * x).mean(-1, keepdim=True), (a * x).mean(-1, keepdim=True)
    p = u - u.mean(-1, keepdim=True) - x * ux
    dx = r * (gamma * gamma * p - u * ax - a * ux)
    dz = r * (dx - dx.mean(-1, keepdim=True) - x * (dx * x).mean(-1, keepdim=True))
    return dz - r * x * (u * g).mean(-1, keepdim=True), r * p


@fused
def layer_norm_parameter_gradients(q, z, target, gamma, beta):
    """Gradients at target, gamma and beta, for all mini-batches."""
    centred = z - z.mean(-1, keepdim=True)
    x = centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)
    d_gamma = (q * (2 * gamma * x + beta - target)).sum((0, 2)).unsqueeze(1)
    return -gamma * q, d_gamma, (gamma * q).sum((0, 2)).unsqueeze(1)


@fused
def output_step(z, target, gamma, beta, rate, g_out, rated_out):
    g = layer_norm_gradient(z, target, gamma, beta)[0]
    g_out.copy_(g)
    rated_out.copy_(rate * g)


@fused
def output_step_back(kd, d_g, rate, g, z, target, gamma, beta, dz_out, q_out, d_rate_out):
    """kd = inputs @ gradient of the next state."""
    dz, q = layer_norm_gradient_vjp(d_g - rate * kd, z, target, gamma, beta)
    dz_out.copy_(dz)
    q_out.copy_(q)
    d_rate_out.copy_(-(g * kd).sum(-1, keepdim=True))


class LinearScan(torch.autograd.Function):
    """f(k) = k W. w0 [G, P, d]; keys, queries [N, G, K, P]; target [N, G, K, d]; rate [N, G, K, 1], times tau_{K-1};
    gamma, beta [G, 1, d]. Gives q W [N, G, K, d], with W of each mini-batch's start, and g [N, G, K, d]."""

    @staticmethod
    def forward(ctx, w0, keys, queries, target, rate, gamma, beta):
        n, k = keys.shape[0], keys.shape[2]
        x = torch.cat([keys, queries], 2)
        w = w0.new_empty(n, *w0.shape)
        z = target.new_empty(*x.shape[:3], target.shape[-1])
        g, rated = torch.empty_like(target), torch.empty_like(target)
        w[0].copy_(w0)
        for t in range(n):
            torch.bmm(x[t], w[t], out=z[t])
            output_step(z[t][:, :k], target[t], gamma, beta, rate[t], g[t], rated[t])
            if t + 1 < n:
                torch.baddbmm(w[t], x[t][:, :k].transpose(1, 2), rated[t], alpha=-1, out=w[t + 1])
        ctx.save_for_backward(w, x, target, rate, gamma, beta, z, g, rated)
        return z[:, :, k:].contiguous(), g

    @staticmethod
    def backward(ctx, d_read, d_g):
        w, x, target, rate, gamma, beta, z, g, rated = ctx.saved_tensors
        n, k = x.shape[0], target.shape[2]
        d_g = d_g.contiguous()
        dw = w.new_empty(n + 1, *w.shape[1:])
        dw[n].zero_()
        dz = torch.empty_like(z)
        dz[:, :, k:].copy_(d_read)
        q, d_rate = torch.empty_like(target), torch.empty_like(rate)
        for t in range(n - 1, -1, -1):
            kd = torch.bmm(x[t][:, :k], dw[t + 1])
            output_step_back(kd, d_g[t], rate[t], g[t], z[t][:, :k], target[t], gamma, beta, dz[t][:, :k], q[t], d_rate[t])
            torch.baddbmm(dw[t + 1], x[t].transpose(1, 2), dz[t], out=dw[t])
        dx = torch.zeros_like(x)
        add_product(dx, dz, w.transpose(2, 3), 1)
        add_product(dx[:, :, :k], rated, dw[1:].transpose(2, 3), -1)
        d_target, d_gamma, d_beta = layer_norm_parameter_gradients(q, z[:, :, :k], target, gamma, beta)
        return dw[0], dx[:, :, :k], dx[:, :, k:], d_target, d_rate, d_gamma, d_beta


# --- TTT-MLP ----------------------------------------------------------------------------------------------------------
C0, C1 = 0.79788456, 0.044715


def gelu_and_slope(z):
    """tanh GELU and its derivative as the published code writes it."""
    t = torch.tanh(C0 * z * (1 + C1 * z * z))
    return 0.5 * z * (1 + t), 0.5 * z * (1 - t * t) * (C0 + 0.1070322243 * z * z) + 0.5 * (1 + t)


def gelu_curvature(z):
    """The derivative of gelu_and_slope's second result."""
    t = torch.tanh(C0 * z * (1 + C1 * z * z))
    s, w, u = 1 - t * t, C0 + 0.1070322243 * z * z, C0 * (1 + 3 * C1 * z * z)
    return 0.5 * s * (w + u) + 0.5 * z * s * (2 * 0.1070322243 * z - 2 * t * u * w)


@fused
def hidden_step(z1, a_out):
    a_out.copy_(gelu_and_slope(z1)[0])


@fused
def hidden_gradient_step(gw2, z1, rate, g1_out, rated1_out):
    g1 = gw2 * gelu_and_slope(z1)[1]
    g1_out.copy_(g1)
    rated1_out.copy_(rate * g1)


@fused
def hidden_step_back_1(kd1, d_g1, rate, g1, z1, d_g1_out, d_gw2_out, d_rate_out):
    u = d_g1 - rate * kd1
    d_g1_out.copy_(u)
    d_gw2_out.copy_(u * gelu_and_slope(z1)[1])
    d_rate_out.copy_(-(g1 * kd1).sum(-1, keepdim=True))


@fused
def mlp_output_step_back(ad2, d_gw2_w2, d_g2, rate, g2, z2, target, gamma, beta, dz2_out, q_out, d_rate_out):
    dz, q = layer_norm_gradient_vjp(d_g2 - rate * ad2 + d_gw2_w2, z2, target, gamma, beta)
    dz2_out.copy_(dz)
    q_out.copy_(q)
    d_rate_out.copy_(d_rate_out - (g2 * ad2).sum(-1, keepdim=True))


@fused
def hidden_step_back_2(d_a, rated2_d2, dz2_w2, z1, d_g1, gw2, dz1_out):
    dz1_out.copy_((d_a - rated2_d2 + dz2_w2) * gelu_and_slope(z1)[1] + d_g1 * gw2 * gelu_curvature(z1))


class MlpScan(torch.autograd.Function):
    """f(k) = gelu(k W1) W2. As LinearScan, with w1 [G, P, H] and w2 [G, Q, d]. Gives q W1, the hidden rows a of the keys
    (with their ones) [N, G, K, Q], the W2 of each mini-batch's start [N, G, Q, d], g1 and g2."""

    @staticmethod
    def forward(ctx, w1_0, w2_0, keys, queries, target, rate, gamma, beta):
        n, k, hidden = keys.shape[0], keys.shape[2], w1_0.shape[2]
        x = torch.cat([keys, queries], 2)
        w1, w2 = w1_0.new_empty(n, *w1_0.shape), w2_0.new_empty(n, *w2_0.shape)
        z1 = x.new_empty(*x.shape[:3], hidden)
        gw2, g1, rated1 = (x.new_empty(*keys.shape[:3], hidden) for _ in range(3))
        z2, g2, rated2 = (torch.empty_like(target) for _ in range(3))
        a = x.new_zeros(*keys.shape[:3], w2_0.shape[1])
        a[..., hidden].fill_(1.0)
        w1[0].copy_(w1_0)
        w2[0].copy_(w2_0)
        for t in range(n):
            torch.bmm(x[t], w1[t], out=z1[t])
            hidden_step(z1[t][:, :k], a[t][..., :hidden])
            torch.bmm(a[t], w2[t], out=z2[t])
            output_step(z2[t], target[t], gamma, beta, rate[t], g2[t], rated2[t])
            torch.bmm(g2[t], w2[t][:, :hidden].transpose(1, 2), out=gw2[t])
            hidden_gradient_step(gw2[t], z1[t][:, :k], rate[t], g1[t], rated1[t])
            if t + 1 < n:
                torch.baddbmm(w1[t], x[t][:, :k].transpose(1, 2), rated1[t], alpha=-1, out=w1[t + 1])
                torch.baddbmm(w2[t], a[t].transpose(1, 2), rated2[t], alpha=-1, out=w2[t + 1])
        ctx.save_for_backward(w1, w2, x, target, rate, gamma, beta, z1, gw2, g1, rated1, z2, g2, rated2, a)
        return z1[:, :, k:].contiguous(), a, w2, g1, g2

    @staticmethod
    def backward(ctx, d_read, d_a, d_w2, d_g1, d_g2):
        w1, w2, x, target, rate, gamma, beta, z1, gw2, g1, rated1, z2, g2, rated2, a = ctx.saved_tensors
        d_a, d_w2, d_g1, d_g2 = (t.contiguous() for t in (d_a, d_w2, d_g1, d_g2))
        n, k, hidden = x.shape[0], target.shape[2], w1.shape[3]
        dw1 = w1.new_empty(n + 1, *w1.shape[1:])
        dw1[n].zero_()
        dw2 = torch.zeros_like(w2[0])  # of the state after mini-batch t
        dz1 = torch.empty_like(z1)
        dz1[:, :, k:].copy_(d_read)
        q, d_rate = torch.empty_like(target), torch.empty_like(rate)
        u1, d_gw2, dz2 = torch.empty_like(g1[0]), torch.empty_like(g1[0]), torch.empty_like(g2[0])
        for t in range(n - 1, -1, -1):
            w2_rows = w2[t][:, :hidden]
            kd1, ad2 = torch.bmm(x[t][:, :k], dw1[t + 1]), torch.bmm(a[t], dw2)
            rated2_d2 = torch.bmm(rated2[t], dw2[:, :hidden].transpose(1, 2))
            hidden_step_back_1(kd1, d_g1[t], rate[t], g1[t], z1[t][:, :k], u1, d_gw2, d_rate[t])
            mlp_output_step_back(ad2, torch.bmm(d_gw2, w2_rows), d_g2[t], rate[t], g2[t], z2[t], target[t], gamma, beta,
                                 dz2, q[t], d_rate[t])
            dz2_w2 = torch.bmm(dz2, w2_rows.transpose(1, 2))
            hidden_step_back_2(d_a[t][..., :hidden], rated2_d2, dz2_w2, z1[t][:, :k], u1, gw2[t], dz1[t][:, :k])
            torch.baddbmm(dw1[t + 1], x[t].transpose(1, 2), dz1[t], out=dw1[t])
            dw2 = torch.baddbmm(dw2 + d_w2[t], a[t].transpose(1, 2), dz2)
            dw2[:, :hidden].baddbmm_(d_gw2.transpose(1, 2), g2[t])
        dx = torch.zeros_like(x)
        add_product(dx, dz1, w1.transpose(2, 3), 1)
        add_product(dx[:, :, :k], rated1, dw1[1:].transpose(2, 3), -1)
        d_target, d_gamma, d_beta = layer_norm_parameter_gradients(q, z2, target, gamma, beta)
        return dw1[0], dw2, dx[:, :, :k], dx[:, :, k:], d_target, d_rate, d_gamma, d_beta


# --- the whole layer --------------------------------------------------------------------------------------------------
@fused
def prepare(queries, keys, values, rate, tau):
    return with_ones(queries), with_ones(keys), values - keys, rate * tau[-1]


@fused
def causal_rates(scores, tau, rate):
    """tau_t rate_j scores_tj for j <= t."""
    return torch.tril(scores * tau.unsqueeze(-1) * rate.transpose(-1, -2))


@fused
def hidden_read(read, correction):
    return with_ones(F.gelu(read - correction, approximate="tanh"))


@fused
def output_read(read, correction, queries, gamma, beta):
    z = read - correction
    centred = z - z.mean(-1, keepdim=True)
    return queries + gamma * (centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + EPS)) + beta


def learn_and_read(queries, keys, values, rate, tau, gamma, beta, weights):
    """queries, keys (both rotated), values [N, G, K, d]; rate [N, G, K, 1]; tau [K]; gamma, beta [G, 1, d]; weights:
    (W1, b1) or (W1, b1, W2, b2), each [G, ., .]. Gives the layer's output [N, G, K, d]."""
    xq, xk, target, last_rate = prepare(queries, keys, values, rate, tau)
    mask = causal_rates(product(xq, xk.transpose(2, 3)), tau, rate)
    w1 = with_bias(weights[0], weights[1])
    if len(weights) == 2:
        read, g = LinearScan.apply(w1, xk, xq, target, last_rate, gamma, beta)
        return output_read(read, product(mask, g), queries, gamma, beta)
    w2_0 = with_bias(weights[2], weights[3])
    read, a, w2, g1, g2 = MlpScan.apply(w1, w2_0, xk, xq, target, last_rate, gamma, beta)
    b = hidden_read(read, product(mask, g1))
    mask = causal_rates(product(b, a.transpose(2, 3)), tau, rate)
    return output_read(product(b, w2), product(mask, g2), queries, gamma, beta)
