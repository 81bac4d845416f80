"""The trainer's model against the definition of the inner loop and against the published code's numbers.

    python -m unittest discover -s tests/train        (needs train/requirements.txt)
"""
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "train"))

try:
    import safetensors.torch
    import torch
    import torch.nn.functional as F
except ImportError as error:
    raise SystemExit(f"{error}: install train/requirements.txt to run the trainer's tests") from error

import data
import export
import inner_loop
from model import Config, LanguageModel

GOLDENS = ROOT / "tests" / "golden" / "models"


def learn_and_read_token_by_token(queries, keys, values, rate, tau, gamma, beta, weights):
    """The primal form: one token at a time, the inner gradient by autograd on the fast weights."""
    def layer_norm(z):
        return F.layer_norm(z, z.shape[-1:], eps=inner_loop.EPS) * gamma + beta

    def learner(x, w):
        if len(w) == 2:
            return x @ w[0] + w[1]
        return F.gelu(x @ w[0] + w[1], approximate="tanh") @ w[2] + w[3]

    outputs, start = [], list(weights)
    for n in range(len(keys)):
        total, current = [torch.zeros_like(w) for w in start], start
        for i in range(keys.shape[2]):
            q, k, v = (x[n, :, i:i + 1] for x in (queries, keys, values))
            loss = 0.5 * ((layer_norm(learner(k, start)) - (v - k)) ** 2).sum()
            gradients = torch.autograd.grad(loss, start, create_graph=True)
            total = [a + rate[n, :, i:i + 1] * g for a, g in zip(total, gradients)]
            current = [w - tau[i] * a for w, a in zip(start, total)]
            outputs.append(q + layer_norm(learner(q, current)))
        start = current
    batch, _, head_dim = outputs[0].shape
    return torch.cat(outputs, 1).reshape(batch, *keys.shape[:1], -1, head_dim).transpose(0, 1)


class InnerLoopTest(unittest.TestCase):
    def check(self, kind):
        torch.manual_seed(0)
        n, groups, k, d = 4, 2, 8, 12
        sizes = [d, d] if kind == "linear" else [d, 4 * d, d]

        def leaf(value):
            return value.double().requires_grad_()
        weights = []
        for rows, columns in zip(sizes, sizes[1:]):
            weights += [leaf(0.2 * torch.randn(groups, rows, columns)), leaf(0.2 * torch.randn(groups, 1, columns))]
        inputs = [leaf(torch.randn(n, groups, k, d)) for _ in range(3)]
        inputs += [leaf(torch.rand(n, groups, k, 1) * 0.5 / d), leaf((1 / torch.arange(1, k + 1) + 0.02 * torch.randn(k)))]
        inputs += [leaf(1 + 0.3 * torch.randn(groups, 1, d)), leaf(0.3 * torch.randn(groups, 1, d))]
        got = inner_loop.learn_and_read(*inputs, weights)
        want = learn_and_read_token_by_token(*inputs, weights)
        torch.testing.assert_close(got, want, atol=1e-7, rtol=0)
        pull = torch.randn_like(want)
        for a, b in zip(*(torch.autograd.grad((y * pull).sum(), inputs + weights) for y in (got, want))):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)

    def test_linear_equals_the_primal_form_with_its_gradients(self):
        self.check("linear")

    def test_mlp_equals_the_primal_form_with_its_gradients(self):
        self.check("mlp")

    def test_products_in_several_calls_equal_one_call(self):
        torch.manual_seed(0)
        a, b = torch.randn(5, 3, 4, 6).double(), torch.randn(5, 3, 6, 2).double()
        limit, inner_loop.MAX_MATRICES = inner_loop.MAX_MATRICES, 6
        try:
            out = torch.zeros(5, 3, 4, 2).double()
            inner_loop.add_product(out, a, b, 2)
            torch.testing.assert_close(inner_loop.product(a, b), a @ b)
            torch.testing.assert_close(out, 2 * (a @ b))
        finally:
            inner_loop.MAX_MATRICES = limit


class ModelTest(unittest.TestCase):
    def test_logits_equal_the_goldens(self):
        cases = sorted(p.parent for p in GOLDENS.glob("*/golden.safetensors"))
        self.assertTrue(cases, f"no goldens under {GOLDENS}")
        for case in cases:
            model = export.load_checkpoint(case)
            golden = safetensors.torch.load_file(case / "golden.safetensors")
            for name in golden:
                if name.startswith("tokens.N"):
                    with self.subTest(case=case.name, tokens=name), torch.no_grad():
                        logits = model.logits(golden[name].long()[None])[0]
                        want = golden["logits." + name.removeprefix("tokens.")]
                        self.assertLessEqual((logits - want).abs().max().item(), 1e-4)

    def test_a_small_model_learns_a_repeated_text(self):
        for kind in ("linear", "mlp"):
            torch.manual_seed(0)
            model = LanguageModel(Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                         num_attention_heads=2, ttt_layer_type=kind, ttt_base_lr=0.1))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            ids = torch.randint(3, 64, (1, 49)).expand(2, 49)
            losses = []
            for _ in range(30):
                loss = model(ids[:, :-1], ids[:, 1:]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            self.assertLess(losses[-1], 0.5 * losses[0], kind)


class DataTest(unittest.TestCase):
    def test_a_window_starts_with_bos_and_ignores_bos_targets(self):
        stream = torch.tensor([1, 10, 11, 2, 1, 12, 13, 2], dtype=torch.int32)
        inputs, targets = data.cut_windows(stream, torch.tensor([1, 3]), 4)
        self.assertEqual(inputs.tolist(), [[1, 10, 11, 2], [1, 2, 1, 12]])
        self.assertEqual(targets.tolist(), [[10, 11, 2, data.IGNORE], [2, data.IGNORE, 12, 13]])

    def test_evaluation_windows_lie_inside_one_book(self):
        self.assertEqual(data.book_windows([12, 7], 4, 2), [(0, 0, 1), (0, 2, 3), (0, 4, 5), (0, 6, 7), (1, 0, 13)])


class ExportTest(unittest.TestCase):
    def test_shards_are_small_and_load_back(self):
        import tempfile
        torch.manual_seed(0)
        model = LanguageModel(Config(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                                     num_attention_heads=2))
        with tempfile.TemporaryDirectory() as folder:
            export.save_checkpoint(model, folder, max_shard_bytes=20000)
            shards = list(Path(folder).glob("*.safetensors"))
            self.assertGreater(len(shards), 1)
            loaded = export.load_checkpoint(folder)
        for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values()):
            torch.testing.assert_close(a.bfloat16().float(), b, msg=name)


if __name__ == "__main__":
    unittest.main()
