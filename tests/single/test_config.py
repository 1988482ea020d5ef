"""Configurations: defaults, files, overrides, and refusals that name the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dathvd.config import dump_config, find_config, load_config, shipped_configs
from dathvd.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/*.yaml"))


def test_the_default_file_is_the_default() -> None:
    path = Path(__file__).parents[2] / "configs" / "digits.yaml"
    assert load_config(path) == load_config()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_loads(path: Path) -> None:
    assert load_config(path).train.epochs > 0


def test_a_dumped_config_loads_to_the_same(tmp_path: Path) -> None:
    config = load_config(
        None,
        ["attack.epsilon=8/255", "schedule.milestones=[3, 5]", "data.num_classes=3"],
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert config.attack.epsilon == pytest.approx(8 / 255, abs=0)


def test_part_of_the_evaluations_attack_keeps_the_evaluations_defaults() -> None:
    attack = load_config(None, ["evaluation.attack.restarts=5"]).evaluation.attack
    assert attack.restarts == 5
    default = load_config().evaluation.attack
    assert attack.model_copy(update={"restarts": default.restarts}) == default


def test_every_field_is_in_the_dump() -> None:
    tree = yaml.safe_load(dump_config(load_config()))
    assert tree == load_config().model_dump(mode="json")


def test_overrides_win_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("optimizer:\n  lr: 1e-3\ntrain:\n  epochs: 7\n")
    config = load_config(file, ["optimizer.lr=2e-3", "optimizer.lr=.5e-2"])
    assert config.optimizer.lr == 0.005
    assert config.train.epochs == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimzer.lr=1", "unknown key 'optimzer' (did you mean 'optimizer'?)"),
        (
            "train.epoch=1",
            "unknown key 'train.epoch' (did you mean 'epochs'?)",
        ),
        ("attack.epsilon=-1", "attack.epsilon: input should be greater"),
        ("attack.epsilon=8/0", "attack.epsilon: input should be a valid number"),
        ("attack.epsilon=.nan", "attack.epsilon: input should be a finite number"),
        ("optimizer.lr=abc", "optimizer.lr: input should be a valid number, got 'abc'"),
        ("optimizer.beta1=1", "optimizer.beta1: input should be less than 1, got 1"),
        ("optimizer.beta2=1.0", "optimizer.beta2: input should be less than 1"),
        ("train.ema_decay=1", "train.ema_decay: input should be less than 1, got 1"),
        (
            "train.ema_decay=[0.9, 1.0]",
            "train.ema_decay.1: input should be less than 1, got 1.0",
        ),
        ("train.ema_decay=abc", "train.ema_decay: input should be a valid number"),
        ("data.extra=[1]", "data.extra.0: input should be a valid string, got 1"),
        ("attack.balls.linf=-1", "attack.balls.linf: input should be greater"),
        ("train.epochs=1.5", "train.epochs: input should be a valid integer, got 1.5"),
        ("train.epochs=0", "train.epochs: input should be greater than or equal to 1"),
        ("train.epochs=true", "train.epochs: input should be a valid integer"),
        ("attack.random_start=1", "attack.random_start: input should be a valid bool"),
        ("attack=3", "attack: expected a section, got 3"),
        ("data.name=foo", "data.name: unknown (choices: arrays, cifar10"),
        ("data.name=minst", "data.name: unknown (did you mean 'mnist'?), got 'minst'"),
        ("model.name=a.b", "model.name: unknown (choices: "),
        ("model.name=a.b:c-d", "model.name: expected package.module:attribute, got 'a"),
        ("model.name=1x:y", "model.name: expected package.module:attribute"),
        ("model.options=3", "model.options: input should be a valid dictionary, got 3"),
        ("seed.x=3", "seed: input should be a valid integer"),
        ("novalue", "expected section.field=value"),
        ("train.epochs=[", "is not valid YAML"),
    ],
)
def test_bad_values_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1, 2", "not valid YAML at line"),
        ("- 1\n", "expected a mapping"),
        ("train:\n  epochs: !!python/object/apply:os.getpid []\n", "not valid YAML"),
        ("train:\n  batch_size: 12 images\n", "train.batch_size: input should be"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert message in str(caught.value) and "bad.yaml" in str(caught.value)


def test_shipped_configurations_are_found_by_name_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2] / "configs"
    monkeypatch.chdir(tmp_path)
    names = [str(path.relative_to(root).with_suffix("")) for path in CONFIGS]
    assert shipped_configs() == sorted(names)
    for name, path in zip(names, CONFIGS, strict=True):
        assert find_config(name).samefile(path)
    assert load_config("cifar10/fast") == load_config(root / "cifar10" / "fast.yaml")


def test_a_file_comes_before_a_shipped_configuration_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("train:\n  epochs: 77\n")
    assert load_config("digits").train.epochs == 77


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    message = r"config cifar10/fats: no such file or shipped .*'cifar10/fast'\?\)"
    with pytest.raises(UserError, match=message):
        load_config("cifar10/fats")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")
