"""The configurations that come with the package, found by name from any folder."""

from __future__ import annotations

from pathlib import Path

from dathvd.errors import UserError, nearest

SHIPPED = Path(__file__).parents[1] / "configs"


def shipped_configs() -> list[str]:
    """Names such as ``digits`` and ``cifar10/fast``, in alphabetical order."""
    files = SHIPPED.glob("**/*.yaml")
    return sorted(
        file.relative_to(SHIPPED).with_suffix("").as_posix() for file in files
    )


def find_config(name: str | Path) -> Path:
    """The file that ``--config`` means: a path, or the name of a shipped configuration.

    A file of that path comes first; a name that ends in ``.yaml`` is always a path.

    Raises:
        UserError: neither a file nor a shipped configuration is called so.
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    shipped = SHIPPED / f"{name}.yaml"
    if not shipped.is_file():
        hint = nearest(str(name), shipped_configs())
        raise UserError(f"config {name}: no such file or shipped configuration {hint}")
    return shipped
