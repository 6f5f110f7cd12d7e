"""YAML in which a key that is given twice is an error."""

from typing import Any

import yaml


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:  # as PyYAML has them
        """Return a mapping.

        Raises:
            ComposerError: Two of its keys are the same.
        """
        node = super().compose_mapping_node(anchor)
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in given:
            if given.count(key) > 1:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return node
