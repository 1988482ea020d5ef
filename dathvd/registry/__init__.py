"""Components by name: where each is, imported on first use, called by its signature.

A registry is a dictionary from names to places, ``"package.module:attribute"``. It
imports nothing before an entry is asked for, so that a configuration can be checked
without torch. A name with a colon is a place itself: a component of a user's own
package. Such a component is imported where it is built or checked, and never by
reading a configuration that names it.
"""

from dathvd.registry.registry import Choice, Places, Registry, is_foreign

__all__ = ["Choice", "Places", "Registry", "is_foreign"]
