"""The digits example trains on its own split only, augments in collate and gets good at it."""

import pytest
import torch

from polledger.examples.digits import Digits, held_out_accuracy, load_examples
from tests.examples.loop import start, train


def test_splits_are_disjoint_and_complete() -> None:
    training, held_out = load_examples(held_out=False), load_examples(held_out=True)
    assert (len(training), len(held_out)) == (1437, 360)
    seen = {image.numpy().tobytes() for image, _ in training}
    assert not any(image.numpy().tobytes() in seen for image, _ in held_out)


def test_every_example_lies_in_the_declared_domains() -> None:
    pixels, labels = Digits.domains["0"], Digits.domains["1"]
    for image, label in load_examples(held_out=False):
        assert label in labels
        assert set(image.flatten().tolist()) <= set(pixels)


def test_collate_shifts_by_at_most_one_pixel() -> None:
    task = Digits()
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    image[0, 4, 4] = 16
    torch.manual_seed(0)
    batch, labels = task.collate([(image, 7)] * 200)
    places = {tuple(place) for place in torch.nonzero(batch[:, 0] == 1)[:, 1:].tolist()}
    assert places == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}
    assert labels.tolist() == [7] * 200


@pytest.mark.slow
def test_default_config_classifies_held_out_digits() -> None:
    trained = train(start(Digits, {}), 0, Digits.config["steps"])
    late = [metrics["accuracy"] for metrics in trained.metrics[-50:]]
    assert sum(late) / len(late) > 0.97
    assert held_out_accuracy(trained.objects["model"]) > 0.97
