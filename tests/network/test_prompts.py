"""Where prompts lie, what they learn, and what they refuse."""

import math

import pytest
import torch
from torch import Tensor

from vpns_lightning.base.errors import UserError
from vpns_lightning.network import (
    ExpansivePrompt,
    FixPrompt,
    LowRankPrompt,
    PadPrompt,
    Prompt,
    RandomPrompt,
    pad_to_canvas,
)

PAIRS = {16: 115, 32: 156, 48: 183, 64: 202, 80: 214, 96: 221, 112: 224}


def torch_clamp_has_gradient_on_its_bounds() -> bool:
    zero = torch.zeros((), requires_grad=True)
    zero.clamp(0, 1).backward()
    return bool(zero.grad)


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


def marked(prompt: Prompt) -> Tensor:
    """Return where the prompt changes black images in training mode, (S, S)."""
    with torch.no_grad():
        prompt.delta.fill_(1)
        return prompt(torch.zeros(1, 3, 4, 4))[0, 0] > 0


@pytest.mark.parametrize(
    ("prompt", "values"),
    [
        (PadPrompt(224, 16), 39_936),
        (PadPrompt(224, 0), 0),
        (PadPrompt(224, 112), 3 * 224 * 224),
        (FixPrompt(224, 115), 39_675),
        (RandomPrompt(224, 115), 39_675),
        (ExpansivePrompt(224, 128), 3 * (224 * 224 - 128 * 128)),
        (LowRankPrompt(224, 4), 5_376),
    ],
)
def test_a_prompt_knows_how_many_values_it_learns(prompt: Prompt, values: int) -> None:
    assert prompt.num_parameters == values


@pytest.mark.parametrize(("pad", "square"), PAIRS.items())
def test_squares_and_pads_pair_as_in_the_release(pad: int, square: int) -> None:
    positions = PadPrompt(224, pad).num_parameters // 3
    assert positions == 4 * pad * (224 - pad)
    assert math.isqrt(positions) == square
    assert FixPrompt(224, square).num_parameters // 3 == square**2 <= positions


def test_a_zero_prompt_changes_nothing_at_the_start() -> None:
    shown = images(16)
    for prompt in (PadPrompt(16, 4), FixPrompt(16, 5), RandomPrompt(16, 5), LowRankPrompt(16, 2)):
        assert torch.equal(prompt(shown), shown)


@pytest.mark.parametrize(
    ("size", "before", "after"), [(10, 0, 0), (9, 1, 0), (8, 1, 1), (7, 2, 1), (1, 5, 4)]
)
def test_padding_puts_the_odd_pixel_left_and_on_top(size: int, before: int, after: int) -> None:
    padded = pad_to_canvas(images(size), 10)
    assert padded.shape == (2, 3, 10, 10)
    assert torch.equal(padded[:, :, before : 10 - after, before : 10 - after], images(size))
    assert padded.sum() == pytest.approx(images(size).sum().item())


def test_pad_prompt_leaves_the_centre_untouched() -> None:
    prompt = PadPrompt(12, 3)
    torch.nn.init.constant_(prompt.delta, 0.7)
    shown = images(12)
    changed = prompt(shown)
    assert torch.equal(changed[:, :, 3:9, 3:9], shown[:, :, 3:9, 3:9])
    strips = torch.ones(12, 12, dtype=torch.bool)
    strips[3:9, 3:9] = False
    assert torch.equal(marked(PadPrompt(12, 3)), strips)


def test_fix_prompt_lies_top_left() -> None:
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[:4, :4] = True
    assert torch.equal(marked(FixPrompt(10, 4)), expected)


def test_expansive_prompt_surrounds_the_image() -> None:
    prompt = ExpansivePrompt(10, 7)
    shown = images(7)
    changed = prompt(shown)
    assert torch.equal(changed[:, :, 2:9, 2:9], shown)
    changed[:, :, 2:9, 2:9] = 0.5
    assert bool((changed == 0.5).all())  # sigmoid(0)


def test_sigmoid_squash_starts_half_grey() -> None:
    prompt = FixPrompt(8, 3, squash="sigmoid")
    assert bool((prompt.picture()[:, :3, :3] == 0.5).all())
    assert prompt.norm() == pytest.approx(math.sqrt(3 * 9 * 0.25))


def test_low_rank_prompt_adds_a_product_of_its_rank() -> None:
    prompt = LowRankPrompt(16, 2)
    torch.nn.init.normal_(prompt.left)
    assert [int(torch.linalg.matrix_rank(channel)) for channel in prompt.picture()] == [2, 2, 2]
    torch.testing.assert_close(
        prompt(images(16)) - images(16), prompt.picture().expand(2, 3, 16, 16)
    )


def test_prompted_pixels_stay_in_range() -> None:
    prompt = PadPrompt(8, 4)
    torch.nn.init.normal_(prompt.delta, std=3)
    changed = prompt(images(8))
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_every_tunable_pixel_has_gradient_on_black_padding() -> None:  # T-1d
    prompt = PadPrompt(64, 8)
    (prompt(images(32)) * torch.rand(64, 64).add(0.1)).sum().backward()
    assert int((prompt.delta.grad != 0).sum()) == 5_376


@pytest.mark.skipif(
    torch_clamp_has_gradient_on_its_bounds(), reason="this torch passes the gradient on bounds"
)
def test_torch_clamp_would_leave_the_prompt_without_gradient() -> None:
    prompt = PadPrompt(64, 8, clamp="native")
    prompt(images(32)).sum().backward()
    assert not bool(prompt.delta.grad.any())


def test_saturated_pixels_get_no_gradient() -> None:
    prompt = PadPrompt(4, 2)
    torch.nn.init.constant_(prompt.delta, 1.5)
    prompt(images(4)).sum().backward()
    assert not bool(prompt.delta.grad.any())


@pytest.mark.parametrize(
    "prompt", [PadPrompt(12, 3), FixPrompt(12, 5), ExpansivePrompt(12, 6, squash="none")]
)
def test_delta_outside_the_region_stays_zero_under_adam_with_decay(prompt: Prompt) -> None:
    optimizer = torch.optim.Adam(prompt.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (prompt(images(6)) - 0.5).pow(2).sum().backward()
        optimizer.step()
    outside = ~prompt.region.expand(3, 12, 12)
    assert not bool(prompt.delta[outside].any())
    assert bool(prompt.delta[~outside].any())


def corners_of(prompt: RandomPrompt, draws: int) -> set[tuple[int, int]]:
    found = set()
    for _ in range(draws):
        rows, columns = marked(prompt).nonzero().unbind(1)
        assert len(rows) == prompt.size**2
        found.add((int(rows.min()), int(columns.min())))
    return found


def test_random_prompt_reaches_every_place_and_no_other() -> None:
    torch.manual_seed(0)
    corners = corners_of(RandomPrompt(6, 4), 200)
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_random_prompt_repeats_under_one_seed() -> None:
    prompt = RandomPrompt(32, 4)
    torch.manual_seed(3)
    first = [corners_of(prompt, 1) for _ in range(5)]
    torch.manual_seed(3)
    assert [corners_of(prompt, 1) for _ in range(5)] == first


def test_random_prompt_lies_in_the_middle_in_evaluation() -> None:
    prompt = RandomPrompt(10, 4).eval()
    expected = torch.zeros(10, 10, dtype=torch.bool)
    expected[3:7, 3:7] = True
    assert torch.equal(marked(prompt), expected)


def test_random_prompt_may_cover_the_whole_canvas() -> None:
    assert bool(marked(RandomPrompt(8, 8)).all())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PadPrompt(16, 9), r"pad_size 9 px .* \[0, 8\]"),
        (lambda: PadPrompt(16, -1), r"pad_size -1 px"),
        (lambda: FixPrompt(16, 17), r"prompt size 17 px"),
        (lambda: RandomPrompt(16, 17), r"prompt size 17 px"),
        (lambda: RandomPrompt(16, -1), r"prompt size -1 px"),
        (lambda: ExpansivePrompt(16, 16), r"image_size 16 px leaves no border"),
        (lambda: ExpansivePrompt(16, 0), r"image_size 0 px"),
        (lambda: LowRankPrompt(16, 17), r"rank must lie in \[1, 16\]"),
        (lambda: LowRankPrompt(0), "canvas_size must be at least 1"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused(build: type[Prompt], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_images_larger_than_the_canvas_are_refused() -> None:
    PadPrompt(32, 4).check_input_size(32)
    with pytest.raises(UserError, match="33 px do not fit the prompt's canvas of 32"):
        PadPrompt(32, 4).check_input_size(33)


def test_expansive_prompt_takes_one_image_size_only() -> None:
    ExpansivePrompt(32, 20).check_input_size(20)
    with pytest.raises(UserError, match=r"needs images of that size, got 32 px"):
        ExpansivePrompt(32, 20).check_input_size(32)


def test_larger_images_are_never_cropped_silently() -> None:
    with pytest.raises(UserError):
        PadPrompt(8, 2)(images(12))
