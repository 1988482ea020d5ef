"""How large AutoAttack's parts are."""

from __future__ import annotations

import socket
import threading

import pytest
import torch

from dathvd.config import ModelConfig
from dathvd.evaluation.part_size import LARGEST, part_size
from dathvd.models import build_model
from dathvd.work_queue import _ask, _Counter, _Server


def size_for(name: str, side: int, least: int = 64) -> int:
    model = build_model(ModelConfig.model_validate({"name": name}), (3, side, side), 10)
    return part_size(model, torch.zeros(1, 3, side, side), least)


def test_cheap_networks_get_many_images_and_none_fewer_than_before() -> None:
    assert size_for("small_cnn", 8) == LARGEST
    small, large = size_for("small_resnet", 8, 1), size_for("preact_resnet18", 32, 1)
    assert LARGEST >= small > large >= 1 and large & (large - 1) == 0
    assert size_for("preact_resnet18", 32) == 64


@pytest.mark.parametrize(
    "token, numbers", [("right", [0, 1, 2, None]), ("wrong", [None])]
)
def test_numbers_are_given_for_the_token_alone(
    token: str, numbers: list[int | None]
) -> None:
    server = _Server(_Counter(3), "right")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = int(server.server_address[1])
    try:
        with socket.create_connection(("127.0.0.1", port)):
            pass  # a connection that asks for nothing takes nothing
        assert [_ask("127.0.0.1", port, token) for _ in numbers] == numbers
    finally:
        server.shutdown()
        server.server_close()
    assert _ask("127.0.0.1", port, token) is None
