"""The components that a configuration names, looked at before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

from dathvd.components import ATTACKS, REGISTRIES
from dathvd.config import Config
from dathvd.registry import is_foreign


def check_components(config: Config) -> None:
    """Import every component that a run needs, and check its options.

    Raises:
        UserError: one cannot be imported, or does not take its options.
    """
    for registry in REGISTRIES:
        registry.check(getattr(config, registry.section))
    ATTACKS.check(config.evaluation.attack)


def ignored_options(config: Config) -> Iterator[str]:
    """A warning for each changed field that belongs to components not chosen.

    Fields that no component names in its signature, such as those of attacks, are
    read from the section as a whole, and not looked at.
    """
    for registry in REGISTRIES:
        section = getattr(config, registry.section)
        if is_foreign(section.name):
            continue
        theirs = {
            field: [name for name in registry if field in registry.takes(name)]
            for field in type(section).model_fields
        }
        for field, names in theirs.items():
            default = type(section).model_fields[field].default
            value = getattr(section, field)
            if names and section.name not in names and value != default:
                yield (
                    f"warning: {registry.section}.{field} {value} is for "
                    f"{' and '.join(names)}; {section.name} does not take it"
                )
