"""The text of a recipe: YAML or Markdown with front matter, tags of classes, variables and ``eval(…)``.

Nothing here knows what a modifier means: the result is plain data, with a :class:`Tagged` for each ``!ClassName``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nncf_transformers.config.errors import ConfigError, nearest
from nncf_transformers.recipe.arithmetic import LARGEST, MAX_LEVELS, MAX_NODES, Scope

MAX_CHARACTERS = 1_000_000
METADATA_KEYS = ("__metadata__", "metadata", "framework_metadata")
# Ours: says how the epochs of stages after the first are meant, see recipe.py.
STAGE_EPOCHS_KEY = "stage_epochs"

_FRONT_MATTER = re.compile(r"^[ \t]*(?:---|\+\+\+)[ \t]*\n(.*?)^[ \t]*(?:---|\+\+\+)[ \t]*$", re.DOTALL | re.MULTILINE)
# What says nothing in front of front matter: comments of YAML and HTML, and directives like %YAML.
_COMMENT = re.compile(r"<!--.*?-->|^[ \t]*[#%].*?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Tagged:
    """What follows ``!ClassName``."""

    name: str
    fields: Mapping[str, Any]
    place: str


@dataclass(frozen=True)
class RawStage:
    """A stage, or the whole of a recipe without stages, whose name is then empty."""

    name: str
    modifiers: tuple[Tagged, ...]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """The content of a recipe with all variables resolved.

    Attributes:
        source: name for messages.
        variables: of the root.
        stages: at least one.
        metadata: of the root.
        stage_epochs: "relative", "absolute", or "" where the text does not say.
    """

    source: str
    variables: Mapping[str, Any]
    stages: tuple[RawStage, ...]
    metadata: Mapping[str, Any]
    stage_epochs: str = ""


_CORE = "tag:yaml.org,2002:"
_MEANT = {"bool": "true or false", "int": "a whole number of at most 300 digits", "float": "a number"}


class _Loader(yaml.SafeLoader):
    """Safe YAML with numbers as people mean them.

    PyYAML follows YAML 1.1, where ``5e-5`` is a text, ``2:4`` is the number 124 and ``010`` is 8.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    # Without times, sets and the like, which no field takes and which eval(…) would not be found in.
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_CORE) in ("null", "str", "seq", "map", *_MEANT)
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML, which has any exception for a scalar that is not what the tag in front of it says."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise OverflowError
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            what = _MEANT.get(node.tag.removeprefix(_CORE), "a value")
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r:.40} is not {what}", node.start_mark
            ) from None
        return value


FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool",
    re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$"),
    list("yYnNtTfFoO"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


@dataclass(frozen=True)
class _Tag:
    """A tagged node before its place is known."""

    name: str
    fields: Mapping[str, Any]


def _construct_tagged(loader: _Loader, suffix: str, node: yaml.Node) -> _Tag:
    name = suffix.removeprefix("pytorch.")
    if isinstance(node, yaml.MappingNode):
        return _Tag(name, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return _Tag(name, {})
    raise yaml.constructor.ConstructorError(None, None, f"!{suffix} needs its fields as a mapping", node.start_mark)


_Loader.add_multi_constructor("!", _construct_tagged)


def read_document(text: str, source: str, arguments: Mapping[str, Any] | None = None) -> Document:
    """Read the text of a recipe.

    Args:
        text: YAML, or Markdown whose front matter is YAML.
        source: name for messages.
        arguments: variables to override, in the root and in stages.

    Raises:
        ConfigError: the text is no recipe, or a variable or an expression of it is wrong.
    """
    try:
        return _document(_parse(text, source, arguments or {}), source)
    except RecursionError:
        raise ConfigError(f"{source}: cannot be read: it is nested too deeply") from None


def _document(content: Mapping[Any, Any], source: str) -> Document:
    root = {str(key): value for key, value in content.items()}
    grouped = [key for key in root if _is_group(key)]
    staged = [key for key, value in root.items() if isinstance(value, dict) and any(map(_is_group, value))]
    if grouped and staged:
        raise ConfigError(
            f'{source}: has modifiers at its root ("{grouped[0]}") and in a stage ("{staged[0]}"); move the former '
            "into a stage of their own"
        )
    others = {key: value for key, value in root.items() if key not in staged and not _is_group(key)}
    stage_epochs = others.pop(STAGE_EPOCHS_KEY, "")
    if stage_epochs not in ("", "relative", "absolute"):
        raise ConfigError(f'{source}: {STAGE_EPOCHS_KEY}: is {stage_epochs!r:.40}, must be "relative" or "absolute"')
    variables, metadata = _split(others, source, "")
    scope = Scope(variables, source)
    if not staged:
        stages = [RawStage("", _modifiers(root, scope, source, ""), {})]
    else:
        stages = [_stage(key, root[key], scope, source) for key in staged]
    if not any(stage.modifiers for stage in stages):
        raise ConfigError(
            f'{source}: has no modifiers; a recipe has lists like "pruning_modifiers" of entries like '
            "- !EpochRangeModifier"
        )
    resolved = {name: scope[name] for name in variables}
    return Document(source, resolved, tuple(stages), metadata, stage_epochs)


def front_matter(text: str) -> str | None:
    """The YAML between two lines ``---`` of a Markdown text, at the lines where it was, or ``None``."""
    found = _FRONT_MATTER.search(text)
    return "\n" * text.count("\n", 0, found.start(1)) + found.group(1) if found else None


def _is_group(key: Any) -> bool:
    return isinstance(key, str) and "modifiers" in key


def _stage(name: str, content: Mapping[str, Any], root: Scope, source: str) -> RawStage:
    others = {str(key): value for key, value in content.items() if not _is_group(key)}
    variables, metadata = _split(others, source, name)
    scope = Scope(variables, source, name, root)
    for variable in variables:
        scope[variable]
    return RawStage(name, _modifiers(content, scope, source, f"{name}."), metadata)


def _split(content: Mapping[str, Any], source: str, path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and metadata. Other mappings are there to be merged into modifiers, and are variables, too."""
    variables: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for key, value in content.items():
        place = f"{source}: {path + '.' if path else ''}{key}"
        if _holds_tag(value):
            hint = nearest(key, ["pruning_modifiers", "training_modifiers", "modifiers", "quantization_modifiers"])
            raise ConfigError(f'{place}: holds modifiers, but its name does not contain "modifiers"{hint}; rename it')
        if key == "framework_metadata":
            metadata[key] = value
        elif key in METADATA_KEYS and isinstance(value, dict):
            metadata.update({str(name): item for name, item in value.items()})
        elif key not in METADATA_KEYS or value is not None:
            variables[key] = value
    return variables, metadata


def _holds_tag(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_tag(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_tag(item) for item in value)
    return isinstance(value, _Tag)


def _modifiers(content: Mapping[str, Any], scope: Scope, source: str, path: str) -> tuple[Tagged, ...]:
    found: list[Tagged] = []
    for key, entries in content.items():
        if not _is_group(key) or entries is None:
            continue
        if not isinstance(entries, list):
            raise ConfigError(f"{source}: {path}{key}: must be a list of modifiers, each starting with - !ClassName")
        for index, entry in enumerate(entries):
            place = f"{source}: {path}{key}[{index}]"
            if not isinstance(entry, _Tag):
                raise ConfigError(f"{place}: is no modifier; write - !ClassName, and its fields indented below")
            fields = {name: scope.resolve(value, f"{place}.{name}") for name, value in entry.fields.items()}
            if _holds_tag(fields):
                raise ConfigError(f"{place}: has a modifier inside a modifier; check the indentation")
            found.append(Tagged(entry.name, fields, place))
    return tuple(found)


def _parse(text: str, source: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The root mapping, with variables overridden, before any ``eval``."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{source}: has {len(text)} characters; {MAX_CHARACTERS} are the most for a recipe")
    text = _only_document(text.replace("\r\n", "\n").removeprefix("\ufeff"), source)
    if not text.strip():
        raise ConfigError(f"{source}: is empty; a recipe has lists of modifiers, such as pruning_modifiers")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{source}: is no recipe: a recipe is a mapping with lists of modifiers in it")
        _check(node, source, loader)
        _override(node, arguments, source)
        _check(node, source, loader)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {_problem(error)}") from None
    except (OverflowError, ValueError) as error:  # of an escape like "\UFFFFFFFF"
        raise ConfigError(f"{source}: cannot be read: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _only_document(text: str, source: str) -> str:
    """The recipe in a text: its front matter where it is Markdown, and else all of it.

    Two lines ``---`` may also part the documents of YAML, of which we would read one, and drop the others' modifiers.
    """
    found = _FRONT_MATTER.search(text)
    if found is None:
        return text
    ending = source.lower().rpartition(".")[2]
    before, behind = text[: found.start()], text[found.end() :]
    dropped = ending in ("yaml", "yml") and bool(_COMMENT.sub("", before).strip())
    if ending != "md" and (dropped or _mappings(before) or _holds_groups(behind)):
        raise ConfigError(
            f'{source}: a line "---" parts it into several documents; a recipe is one document: remove the line, or '
            "put Markdown into a .md file"
        )
    return front_matter(text) or text


def _holds_groups(text: str) -> bool:
    """Whether a text is no Markdown, but YAML with lists of modifiers in it, at its root or in a stage."""
    found = [pair for root in _mappings(text) for pair in root.value]
    found += [pair for _, value in found if isinstance(value, yaml.MappingNode) for pair in value.value]
    return any(_is_group(key.value) for key, _ in found)


def _mappings(text: str) -> list[yaml.MappingNode]:
    """The mappings in a text that is YAML; Markdown seldom is, and then a single text or a list."""
    try:
        return [node for node in yaml.compose_all(text, Loader=_Loader) if isinstance(node, yaml.MappingNode)]
    except (yaml.YAMLError, OverflowError, ValueError):
        return []


def _problem(error: yaml.YAMLError) -> str:
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).replace("\n", " ")
    mark = getattr(error, "problem_mark", None)
    at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    if "could not determine a constructor" in problem:
        return f"a tag that is no modifier's{at}: {problem.split(' for the tag ')[-1]}; write !ClassName"
    return f"not YAML{at}: {problem}"


def _check(root: yaml.Node, source: str, loader: _Loader) -> None:
    """Refuse keys given twice, values that contain themselves, and what is too deep or, with aliases, too large."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def visit(node: yaml.Node, path: str, depth: int) -> int:
        where = f"{source}: {path}" if path else source
        if id(node) in open_nodes:
            raise ConfigError(f"{where}: contains itself, by its alias")
        if id(node) in sizes:
            return sizes[id(node)]
        if depth > MAX_LEVELS:
            raise ConfigError(f"{source}: {path[:60]}…: is nested more than {MAX_LEVELS} levels deep")
        open_nodes.add(id(node))
        size = 1
        if isinstance(node, yaml.SequenceNode):
            size += sum(visit(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            seen: set[Any] = set()
            for key, value in node.value:
                name = str(key.value)
                inner = f"{path}.{name}" if path else name
                if not isinstance(key, yaml.ScalarNode):
                    raise ConfigError(f"{where}: has a key that is a list or a mapping; keys are names")
                if name != "<<":
                    # Not as an object: that would be kept, and the scalar may be an alias of an overridden variable.
                    meant = loader.construct_document(key)
                    if isinstance(meant, _Tag):
                        raise ConfigError(f"{where}: has a key with the tag {key.tag:.40}; keys are names")
                    if not seen.isdisjoint((name, meant)):
                        raise ConfigError(f"{source}: {inner}: is given twice in one mapping; keep one of them")
                    seen.update((name, meant))
                size += visit(value, inner, depth + 1)
        if size > MAX_NODES:
            raise ConfigError(f"{where}: has more than {MAX_NODES} entries, with its aliases filled in")
        open_nodes.remove(id(node))
        sizes[id(node)] = size
        return size

    visit(root, "", 0)


def _override(root: yaml.MappingNode, arguments: Mapping[str, Any], source: str) -> None:
    """Set variables in the tree of nodes, so that aliases of an overridden variable follow."""
    mappings = [root]
    for _, value in root.value:
        if isinstance(value, yaml.MappingNode) and any(_is_group(key.value) for key, _ in value.value):
            mappings.append(value)
    found: set[str] = set()
    known: list[str] = []
    for mapping in mappings:
        for index, (key, value) in enumerate(mapping.value):
            variable = not isinstance(value, yaml.MappingNode) and not _is_group(key.value)
            if not variable or key.value in (STAGE_EPOCHS_KEY, "<<"):
                continue
            known.append(key.value)
            if key.value not in arguments:
                continue
            found.add(key.value)
            new = yaml.representer.SafeRepresenter().represent_data(arguments[key.value])
            # An anchor stands behind its key; the node of an alias stands before it, and is somebody else's.
            if isinstance(value, yaml.ScalarNode) and value.start_mark.index > key.end_mark.index:
                if not isinstance(new, yaml.ScalarNode):
                    mapping.value[index] = (key, new)
                else:
                    value.tag, value.value = new.tag, new.value
            else:
                mapping.value[index] = (key, new)
    for name in arguments:
        if name not in found:
            hint = nearest(name, known) or (
                f"; its variables: {', '.join(known)}" if known else "; it has no variables"
            )
            raise ConfigError(f'--recipe_args: {source} has no variable "{name}"{hint}')


def parse_scalar(text: str, place: str) -> Any:
    """A number, a boolean, null or a text, as it would be in a recipe.

    Raises:
        ConfigError: it says that it is a number or the like, and is none; it is named by ``place``.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and not isinstance(node, yaml.ScalarNode):
            return text
        value = None if node is None else loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"{place}: {error.problem}") from None
    except (RecursionError, OverflowError, ValueError):
        raise ConfigError(f"{place}: {text!r:.40} cannot be read; write a number, a name or a JSON object") from None
    except yaml.YAMLError:
        return text
    return value if value is None or isinstance(value, (bool, int, float)) else text
