"""The demo model's training: its order, the guidance of heads, and its command line's errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="torch is not installed (extra 'train')")

import torch
from torch.nn import functional

from demo_model import guidance
from demo_model.batches import IGNORED, sources_of
from demo_model.export import read_weights
from demo_model.network import Attention, Llama, Shape, rotary
from demo_model.optimizer import optimizers_of
from demo_model.training import Budget, copy_rate, learning_rate, loss_sum
from train_demo_model import main

CHECKPOINT = Path(__file__).resolve().parents[2] / "models" / "demo"
SHAPE = Shape(vocab_size=64)


def test_copies_follow_the_steps_and_polishing_follows_them() -> None:
    budget = Budget(10, copies=4, polish=2)
    where = [
        (budget.progress(step, 0.0), budget.copied(step), budget.polished(step))
        for step in (0, 5, 10, 12, 14, 15, 16)
    ]
    assert where == [
        *((0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.5, 0.0)),
        *((1.0, 1.0, 0.0), (1.0, 1.0, 0.5), (1.0, 1.0, 1.0)),
    ]


def test_a_run_from_weights_begins_with_the_copies() -> None:
    budget = Budget(0, copies=4)
    assert (budget.progress(0, 0.0), budget.copied(0), budget.copied(4)) == (1.0, 0.0, 1.0)
    assert budget.polished(4) == 1.0


def test_a_run_by_the_clock_ends_with_the_clock() -> None:
    budget = Budget(None, seconds=60.0)
    assert [budget.progress(7, elapsed) for elapsed in (0.0, 30.0, 90.0)] == [0.0, 0.5, 1.0]
    assert budget.copied(7) == budget.polished(7) == 1.0


def test_rates_begin_low_and_do_not_jump() -> None:
    shares = [step / 400 for step in range(401)]
    copying = [copy_rate(share) for share in shares]
    main_stages = [learning_rate(step, share) for step, share in enumerate(shares)]
    for rates in (copying, main_stages):
        assert 0 < rates[0] < 0.5 * max(rates)
        assert max(abs(np.diff(rates))) < 0.1
        assert min(rates) >= 0


def test_scores_are_those_of_the_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(Shape(num_key_value_heads=2))
    x = torch.randn(2, 9, 256)
    cos, sin = rotary(attention.shape, 9, x.device)
    weights = attention.scores(x, cos, sin, range(8)).softmax(-1)
    v = attention.v_proj(x).view(2, 9, 2, 32).transpose(1, 2).repeat_interleave(4, dim=1)
    expected = attention.o_proj((weights @ v).transpose(1, 2).reshape(2, 9, 256))
    torch.testing.assert_close(attention(x, cos, sin), expected)
    some = attention.scores(x, cos, sin, (6, 1)).softmax(-1)
    torch.testing.assert_close(some, weights[:, (6, 1)])


def test_guided_heads_come_to_look_where_they_are_told() -> None:
    model = Llama(SHAPE, seed=1)
    guide = guidance.Guide(model)
    ids = np.random.default_rng(0).integers(0, 64, (4, 12))
    ids = np.concatenate([ids, ids], axis=1)
    sources = torch.tensor([sources_of(row.tolist(), 13) for row in ids])
    x = torch.from_numpy(ids[:, :-1])
    losses = []
    optimizers = optimizers_of(model)
    for _ in range(25):
        loss = 0.0 * model(x).sum() + guide.loss(sources)
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    guide.close()
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_guidance_without_sources_is_about_the_tokens_before_only() -> None:
    model = Llama(SHAPE, seed=1)
    guide = guidance.Guide(model)
    x = torch.arange(12)[None]
    model(x)
    nothing = guide.loss(torch.full((1, 12), IGNORED))
    assert torch.isfinite(nothing)
    assert nothing < guide.loss(torch.zeros(1, 12, dtype=torch.long))


def test_loss_is_of_the_targets_that_count() -> None:
    model = Llama(SHAPE, seed=1)
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    x = torch.arange(12)[None]
    y = torch.where(x > 8, x, IGNORED)
    expected = functional.cross_entropy(model(x)[0, 9:], x[0, 9:], reduction="sum")
    assert loss_sum(model, x, y).item() == pytest.approx(expected.item(), rel=0.02)


def test_shipped_weights_fit_the_network() -> None:
    weights = read_weights(CHECKPOINT)
    Llama(Shape()).load_state_dict(weights)
    assert {t.dtype for t in weights.values()} == {torch.float32}


def run(*options: str) -> Result:
    return CliRunner().invoke(main, options)


@pytest.mark.parametrize("option", ["--copies", "--polish"])
def test_later_steps_need_something_to_follow(tmp_path: Path, option: str) -> None:
    result = run("--work", str(tmp_path), option, "5")
    assert result.exit_code == 2
    assert "--copies and --polish need --steps or --weights" in result.output


def test_weights_without_a_checkpoint_are_an_error(tmp_path: Path) -> None:
    result = run("--work", str(tmp_path / "work"), "--weights", str(tmp_path), "--copies", "5")
    assert result.exit_code == 1
    assert f"--weights {tmp_path}: there is no *.safetensors file" in result.output
