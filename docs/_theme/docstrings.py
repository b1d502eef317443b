"""Docstrings as the API pages need them: Sphinx's roles become links, one entry for each argument."""

import re

import griffe

ROLE = re.compile(r':(?:func|class|meth|mod|attr|data):`~?\.?([\w.]+)`')
SHARED_ENTRY = re.compile(r'^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)', flags=re.M)  # `name, name: text` under `Args:`


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Called by griffe once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value, obj)


def rewrite(text: str, obj: griffe.Object) -> str:
    """Roles as links, `a, b: text` as two entries, `::` before a code block as `:`."""
    text = ROLE.sub(lambda match: link(match.group(1), obj), text)
    text = SHARED_ENTRY.sub(lambda match: '\n'.join(f'{match[1]}{n}: {match[3]}' for n in match[2].split(', ')), text)
    return re.sub(r'::$', ':', text, flags=re.M)


def link(name: str, obj: griffe.Object) -> str:
    """A link to the name's entry where there is one, else the name as code."""
    try:
        target = obj.resolve(name)
    except griffe.NameResolutionError:
        target = name
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'
