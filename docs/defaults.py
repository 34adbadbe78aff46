"""Adds the defaults of settings to their descriptions in the documentation; mkdocs.yml names it as an extension."""

from typing import Any

import griffe


class Defaults(griffe.Extension):
    """A setting's description is in its class's docstring, and its default only in the code."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        sections = cls.docstring.parsed if cls.docstring else []
        for section in sections:
            if isinstance(section, griffe.DocstringSectionAttributes):
                for described in section.value:
                    attribute = cls.members.get(described.name)
                    if isinstance(attribute, griffe.Attribute) and attribute.value is not None:
                        described.description += f" Default: `{attribute.value}`."
