import pytest

from pytest_gates.vocabulary import GPUS, hint, reason_names


def test_only_contaminating_reasons_are_named() -> None:
    assert reason_names(0x04 | 0x01) == ()
    assert reason_names(0x40 | 0x04 | 0x08) == ("HwSlowdown", "HwThermalSlowdown")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("wall", "did you mean `wall_ms`?"),
        ("train_los", "did you mean `train_loss`?"),
        ("zzz", "known: train_loss, wall_ms"),
    ],
)
def test_a_hint_adds_the_unit_or_mends_the_spelling(word: str, told: str) -> None:
    assert hint(word, ["train_loss", "wall_ms"]) == told


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("B200", "did you mean `NVIDIA B200`?"),
        ("H200", "did you mean `NVIDIA H200`?"),
        ("NVIDIA RTX 4090", "did you mean `NVIDIA GeForce RTX 4090`?"),
        ("NVIDIA H20", "did you mean `NVIDIA H200`?"),
    ],
)
def test_a_gpu_is_hinted_at_without_its_maker_or_its_line(word: str, told: str) -> None:
    assert hint(word, GPUS) == told


def test_what_is_like_nothing_gets_all_the_names_not_a_wrong_guess() -> None:
    assert hint("NVIDIA TITAN", GPUS).startswith("known: NVIDIA B200, ")


def test_names_that_are_too_many_for_a_line_are_pointed_at() -> None:
    names = [f"name-{number}" for number in range(26)]
    assert hint("zzz", names, "the page") == "there are 26, listed in the page"
    assert hint("name3", names, "the page") == "did you mean `name-3`?"
    assert hint("zzz", names[:2], "the page") == "known: name-0, name-1"


def test_every_gpu_has_a_ceiling_with_a_source() -> None:
    assert all(
        gpu.name == name and gpu.bf16_tflops > 0 and gpu.source for name, gpu in GPUS.items()
    )
    # A large matmul was measured at 785 TFLOP/s there: the ceiling must lie above what is real.
    assert GPUS["NVIDIA H200"].bf16_tflops > 785
