"""Names: resolved before anything runs, and answered with the nearest ones when wrong.

Every place where a user types a name (site, cache key, config field, dictionary) asks `match` or
raises `unknown`, so a typo is never a silent no-op. Standard library only.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import lru_cache

from interp.core.errors import BadName, SiteError

Patterns = str | Iterable[str] | Callable[[str], bool] | None

_BLOCK = re.compile(r"^(.*?\bblocks\.)(-?\d+)(\..*)$", re.DOTALL)
_DIGITS = re.compile(r"\d+")
_GLOB = re.compile(r"[*?\[]")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))]
)
_KEY_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl_", "zxcvbnm.")


# ------------------------------------------------------------------ nearest names


def suggest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """The `n` candidates nearest to `name`, nearest first, the same on every call.

    Nearness is the optimal string alignment distance (insert, delete, substitute, transpose two
    neighbours), upper and lower case alike. Equal distances are ordered by what people mistype
    least: first the candidates with the same numbers (layers), then those with as many dotted
    parts, then those whose differing letters are neighbours on the keyboard, then the given order.
    When nothing is near, candidates that contain `name` come first (`resid_post`).
    """
    query = name.casefold()
    unique = list(dict.fromkeys(candidates))
    folded = [candidate.casefold() for candidate in unique]
    near = _nearest(query, folded, n)
    least = min((distance for distance, _ in near), default=0)
    # with a third of the letters wrong it was no typo
    if 3 * least > max(6, len(query)) and len(query) > 2:
        inside = {i for i, candidate in enumerate(folded) if query in candidate}
        near = [(-1, i) for i in inside] + [(d, i) for d, i in near if i not in inside]
    near.sort(key=lambda pair: (pair[0], *_oddness(query, folded[pair[1]]), pair[1]))
    return [unique[i] for _, i in near[:n]]


def _nearest(query: str, candidates: Sequence[str], n: int) -> list[tuple[int, int]]:
    """(distance, index) of the `n` nearest candidates and of all that tie with the last of them."""
    bag = _bag(query)
    # letters that one has and the other lacks: the distance cannot be less
    bounds = sorted(
        (max((bag & ~other).bit_count(), (other & ~bag).bit_count()), i)
        for i, other in enumerate(map(_bag, candidates))
    )
    letters = _letter_masks(query)
    found: list[tuple[int, int]] = []
    best: list[int] = []
    for bound, i in bounds:
        if len(best) == n and bound > best[-1]:
            break
        distance = _distance(letters, len(query), candidates[i])
        found.append((distance, i))
        best = sorted([*best, distance])[:n]
    return [(distance, i) for distance, i in found if distance <= best[-1]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'a', 'b' or 'c'?`, or an empty string when there are no candidates."""
    near = [repr(candidate) for candidate in suggest(name, candidates)]
    if not near:
        return ""
    head = ", ".join(near[:-1])
    return f"did you mean {head} or {near[-1]}?" if head else f"did you mean {near[-1]}?"


def _letter_masks(text: str) -> dict[str, int]:
    """For each letter, the bit set of its positions in `text`."""
    masks: dict[str, int] = {}
    for i, letter in enumerate(text):
        masks[letter] = masks.get(letter, 0) | 1 << i
    return masks


def _distance(masks: dict[str, int], length: int, other: str) -> int:
    """Optimal string alignment distance, one column of the table per machine word.

    Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances".
    `masks` are the letter masks of a text with `length` letters. `plus` and `minus` are the
    table's vertical steps of +1 and -1, `zero` the cells whose diagonal step is 0.
    """
    if not length:
        return len(other)
    full = (1 << length) - 1
    last = 1 << (length - 1)
    plus, minus, zero, before = full, 0, 0, 0
    distance = length
    for letter in other:
        here = masks.get(letter, 0)
        swap = ((~zero & here) << 1) & before
        zero = ((((here & plus) + plus) ^ plus) | here | minus | swap) & full
        up = minus | ~(zero | plus)
        down = zero & plus
        if up & last:
            distance += 1
        elif down & last:
            distance -= 1
        up = up << 1 | 1
        plus = (down << 1 | ~(zero | up)) & full
        minus = up & zero & full
        before = here
    return distance


@lru_cache(maxsize=8192)
def _bag(text: str) -> int:
    """The letters of `text` as a set of bits, one per (letter, how many times so far)."""
    seen: dict[str, int] = {}
    bits = 0
    for letter in text:
        count = seen.get(letter, 0)
        seen[letter] = count + 1
        bits |= 1 << _bag_index(letter, count)
    return bits


@lru_cache(maxsize=65536)
def _bag_index(letter: str, count: int) -> int:
    """A bit for each pair; sharing one (beyond ASCII, beyond 8) only loosens the bound."""
    return (min(ord(letter), 128) * 8) + min(count, 7)


def _oddness(query: str, candidate: str) -> tuple[int, int, int]:
    """How unusual it would be to mistype `candidate` as `query`; smaller is likelier."""
    numbers = int(_DIGITS.findall(query) != _DIGITS.findall(candidate))
    parts = abs(query.count(".") - candidate.count("."))
    far = 0
    if len(query) == len(candidate):
        far = sum(not _keys_touch(a, b) for a, b in zip(query, candidate, strict=True) if a != b)
    return numbers, parts, far


@lru_cache(maxsize=4096)
def _keys_touch(a: str, b: str) -> bool:
    """Whether two letters are neighbours on a keyboard."""
    places = {key: (row, i) for row, keys in enumerate(_KEY_ROWS) for i, key in enumerate(keys)}
    if a not in places or b not in places:
        return False
    (row_a, col_a), (row_b, col_b) = places[a], places[b]
    return abs(row_a - row_b) <= 1 and abs(col_a - col_b) <= 1


# ------------------------------------------------------------------ resolving


def match(
    patterns: Patterns,
    candidates: Sequence[str] | Mapping[str, object] | Set[str],
    *,
    what: str = "site",
    where: str = "",
) -> list[str]:
    """Resolve names, globs or a predicate to candidate names, in the candidates' order.

    Args:
        patterns: An exact name, a glob (`*`, `?`, `[0-3]`; case-sensitive, `*` crosses dots), an
            iterable of those, a predicate, or None for every candidate.
        candidates: The names that exist. A mapping or set is looked up as it is.
        what: The noun of the error message.
        where: What was searched, for the error message (the model's name).

    Raises:
        SiteError: A name is unknown, or a glob, a predicate or an empty list matches nothing. One
            bad name in a list refuses the whole list and is the one named.
    """
    known = candidates if isinstance(candidates, Mapping | Set) else dict.fromkeys(candidates)
    if isinstance(patterns, str):
        return _resolve(patterns, known, what, where)
    if patterns is None:
        return list(known)
    if callable(patterns):
        chosen = [name for name in known if patterns(name)]
        if not chosen:
            raise _nothing(f"the predicate matches no {what}{_in(where)}", known, what)
        return chosen
    wanted: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SiteError(
                f"a {what} name must be a string",
                got=f"{pattern!r} ({type(pattern).__name__})",
                expected="a name or a glob",
            )
        wanted.update(_resolve(pattern, known, what, where))
    if not wanted:
        raise _nothing(f"no {what} was asked for{_in(where)}", known, what)
    return [name for name in known if name in wanted]


def unknown(name: str, candidates: Iterable[str], *, what: str = "site", where: str = "") -> SiteError:
    """The error for a name that matches none of `candidates`: raise what this returns."""
    names = list(candidates)
    count = layer_count(name, names)
    block = _BLOCK.match(name)
    layers = "" if count is None else f" ({count} layer{'' if count == 1 else 's'})"
    if count is not None and block and not 0 <= int(block[2]) < count:
        last = f"{block[1]}{count - 1}{block[3]}"
        near = f"did you mean {last!r}?" if last in names else did_you_mean(name, names)
        return SiteError(
            f"no {what} {name!r}{_in(where)}: layer {int(block[2])} is out of range",
            got=name,
            expected=f"{count} layers exist, 0 to {count - 1}",
            fix=near,
        )
    if _GLOB.search(name):
        starred = [_DIGITS.sub("*", candidate) for candidate in names]
        return SiteError(
            f"the glob {name!r} matches no {what}{_in(where)}{layers}",
            got=name,
            expected=f"a glob that matches at least one of {len(names)} names",
            fix=did_you_mean(name, [*dict.fromkeys(starred), *names]) or None,
        )
    return SiteError(
        f"no {what} {name!r}{_in(where)}{layers}",
        got=name,
        expected=f"one of {len(names)} names",
        fix=did_you_mean(name, names) or None,
    )


def layer_count(name: str, candidates: Iterable[str]) -> int | None:
    """How many layers the candidates have under the prefix of `name` (`blocks.`); None if none."""
    block = _BLOCK.match(name)
    prefix = block[1] if block else "blocks."
    found = [int(other[2]) for other in map(_BLOCK.match, candidates) if other and other[1] == prefix]
    return max(found) + 1 if found else None


def _resolve(pattern: str, known: Iterable[str], what: str, where: str) -> list[str]:
    if pattern in known:
        return [pattern]
    if _GLOB.search(pattern):
        fits = _glob(pattern)
        chosen = [name for name in known if fits(name)]
        if chosen:
            return chosen
    raise unknown(pattern, known, what=what, where=where)


@lru_cache(maxsize=512)
def _glob(pattern: str) -> Callable[[str], object]:
    # not fnmatch.fnmatch: that ignores case on some systems
    return re.compile(fnmatch.translate(pattern)).match


def _nothing(message: str, known: Iterable[str], what: str) -> SiteError:
    names = list(known)
    shown = ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
    fix = f"the {what}s are {shown}" if names else f"there are no {what}s here"
    return SiteError(message, expected=f"at least one of {len(names)} names", fix=fix)


def _in(where: str) -> str:
    return f" in {where}" if where else ""


# ------------------------------------------------------------------ short keys, slugs

_ALIASES = {
    "attn": "pattern",
    "attn_logits": "attn_scores",
    "key": "k",
    "query": "q",
    "value": "v",
    "mlp_pre": "pre",
    "mlp_mid": "mid",
    "mlp_post": "post",
}
_SUBLAYER_ALIASES = {"a": "attn", "attention": "attn", "m": "mlp", "b": "", "block": "", "blocks": ""}
_ATTN = frozenset("k v q z rot_k rot_q result pattern attn_scores".split())
_MLP = frozenset("pre post mid pre_linear".split())
_FUSED = re.compile(r"([a-z_]+?)(\d+)([a-z]?.*)")


@lru_cache(maxsize=8192)
def expand(short: str, layer: int | None = None, sublayer: str | None = None) -> str:
    """A site's full name from TransformerLens's short form (its `get_act_name`).

    `("resid_post", 3)` is `blocks.3.hook_resid_post`, `("pattern", 0)` is
    `blocks.0.attn.hook_pattern`, `("scale", 2, "ln1")` is `blocks.2.ln1.hook_scale`, `"k6"` is
    `blocks.6.attn.hook_k`, `"scale"` is `ln_final.hook_scale`. Full names come back unchanged.
    """
    if layer is None and sublayer is None and ("." in short or short.startswith("hook_")):
        return short
    fused = _FUSED.fullmatch(short) if layer is None else None
    if fused:
        short, layer, sublayer = fused[1], int(fused[2]), fused[3] or None
    short = _ALIASES.get(short, short)
    if short in _ATTN:
        sublayer = "attn"
    elif short in _MLP:
        sublayer = "mlp"
    elif sublayer is not None:
        sublayer = _SUBLAYER_ALIASES.get(sublayer, sublayer)
    if layer is None and sublayer is None and short in ("scale", "normalized"):
        sublayer = "ln_final"
    block = "" if layer is None else f"blocks.{layer}."
    return f"{block}{sublayer + '.' if sublayer else ''}hook_{short}"


def slug(name: str) -> str:
    """`name`, if it may become one component of a path.

    Raises:
        BadName: It is not `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`, contains `..`, ends in a dot or is a
            device name of Windows (a run folder should survive being copied).
    """
    if (
        not isinstance(name, str)
        or not _SLUG.fullmatch(name)
        or ".." in name
        or name.endswith(".")
        or name.split(".", 1)[0].lower() in _DEVICES
    ):
        raise BadName(
            "this name must not become a file name",
            got=_shorten(repr(name)),
            expected="1 to 100 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, no '..', "
            "no device name",
            fix="choose a plain name such as 'run-1'",
        )
    return name


def _shorten(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
