"""The resnet example reads CIFAR's binary form, keeps to the sizes config names and learns; wrong input is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polledger.errors import UsageError
from polledger.examples.resnet import SOURCES, ResNet, build_model
from polledger.training.task import prepare_task
from tests.examples.loop import start, train


def prepared(data: Path | None = None, **config: Any) -> ResNet:
    inputs = {} if data is None else {"data": str(data)}
    return prepare_task(ResNet, config=config, inputs=inputs)


def write_cifar(directory: Path, dataset: str, *, records: int) -> np.ndarray:
    """``records`` random records in every file of ``dataset``; all of them, in order."""
    source = SOURCES[dataset]
    generator = np.random.default_rng(0)
    size = source.labels + int(np.prod(source.shape))
    rows = generator.integers(0, 256, (len(source.files) * records, size), dtype=np.uint8)
    rows[:, : source.labels] = generator.integers(0, source.classes, (len(rows), source.labels))
    for i, name in enumerate(source.files):
        (directory / name).write_bytes(rows[i * records : (i + 1) * records].tobytes())
    return rows


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_binary_records_are_label_then_channels_of_rows(tmp_path: Path, dataset: str) -> None:
    rows = write_cifar(tmp_path, dataset, records=3)
    data = prepared(tmp_path, dataset=dataset).dataset()
    labels = SOURCES[dataset].labels
    assert len(data) == len(rows)
    for (image, label), row in zip((data[i] for i in range(len(data))), rows, strict=True):
        assert label == row[labels - 1]
        assert image.shape == (3, 32, 32)
        assert image.flatten().tolist() == row[labels:].tolist()
    with pytest.raises(IndexError):
        data[len(data)]


def test_the_fine_label_of_cifar100_is_the_second_byte(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(bytes([7, 42]) + bytes(3072))
    assert prepared(tmp_path, dataset="cifar100").dataset()[0][1] == 42


def test_a_file_that_is_no_whole_number_of_records_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", records=1)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(3072))
    with pytest.raises(UsageError, match="no whole number of records of 3073"):
        prepared(tmp_path, dataset="cifar10").dataset()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data_batch_1.bin cannot be read"):
        prepared(tmp_path, dataset="cifar10").dataset()


def test_data_and_its_name_go_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with --set dataset=cifar10"):
        prepared(tmp_path).dataset()
    with pytest.raises(UsageError, match="--input data=DIR"):
        prepared(dataset="cifar10").dataset()
    with pytest.raises(UsageError, match="one of digits, cifar10, cifar100"):
        prepared(dataset="imagenet").model()


def test_defaults_are_resnet_20() -> None:
    model = build_model(channels=3, classes=10, width=16, blocks=3)
    # 0.27 million, as He et al. state; convolutions and the last layer make the depth.
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 20
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_collate_shifts_mirrors_and_scales() -> None:
    task = prepared(dataset="cifar10")
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, 16, 10] = 255
    torch.manual_seed(0)
    batch, labels = task.collate([(image, 3)] * 2000)
    assert labels.tolist() == [3] * 2000
    places = {tuple(place) for place in torch.nonzero(batch[:, 0] == 1)[:, 1:].tolist()}
    rows, columns = {y for y, _ in places}, {x for _, x in places}
    assert rows == set(range(12, 21))
    assert columns == set(range(6, 15)) | {31 - x for x in range(6, 15)}
    assert batch.min().item() == -1


@pytest.mark.slow
def test_a_narrow_one_learns_the_digits() -> None:
    trained = train(start(ResNet, {"width": 8, "blocks": 1, "steps": 300}), 0, 300)
    late = [metrics["accuracy"] for metrics in trained.metrics[-50:]]
    assert sum(late) / len(late) > 0.95
