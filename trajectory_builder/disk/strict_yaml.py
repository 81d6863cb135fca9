"""Untrusted YAML: plain values without aliases, and no key twice."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: tables, lists, texts, numbers, dates.

    Raises:
        ValueError: it is not sound YAML, repeats a key, or has an alias or a tag; in one line.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    # A thousand brackets are a RecursionError; odd dates, tags and keys are any of the others.
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, KeyError,
            AttributeError) as error:  # fmt: skip
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


@cache
def _loader() -> type[Any]:
    """YAML's safe loader without aliases, in which a repeated key is an error.

    YAML would take the last of repeated keys; aliases of aliases grow without bound.
    """
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.composer.ComposerError(None, None, "aliases are not read")
            return super().compose_node(parent, index)

    def mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
        """A mapping whose keys all differ; else yaml's error, with the place."""
        plain: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        if len(plain) < len(node.value):
            keys = Counter(loader.construct_object(key) for key, _ in node.value)
            doubled = sorted(str(key) for key, count in keys.items() if count > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"key {doubled[0]} is there twice", node.start_mark
            )
        return plain

    StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return StrictLoader
