"""An error explains itself, survives a process border and is the builtin that callers expect."""

import inspect
import pickle

import pytest

from interp.core import errors
from interp.core.errors import InterpError, SiteError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, InterpError)]


@pytest.mark.parametrize("kind", KINDS)
def test_four_parts_in_order(kind):
    error = kind("no such thing", got=5, expected="7", fix="ask again")
    assert str(error) == "no such thing\n  got: 5\n  expected: 7\n  fix: ask again"
    assert (error.what, error.got, error.expected, error.fix) == ("no such thing", "5", "7", "ask again")


@pytest.mark.parametrize("kind", KINDS)
def test_only_given_parts_are_printed(kind):
    assert str(kind("broken")) == "broken"
    assert str(kind("broken", fix="mend it")) == "broken\n  fix: mend it"
    assert str(kind("broken", got=0)) == "broken\n  got: 0"  # a falsy value is still a value


@pytest.mark.parametrize("kind", KINDS)
def test_survives_a_process_border(kind):
    error = pickle.loads(pickle.dumps(kind("a", got="b", expected="c", fix="d")))
    assert type(error) is kind
    assert str(error) == "a\n  got: b\n  expected: c\n  fix: d"


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("SiteError", KeyError),
        ("NonFiniteError", ArithmeticError),
        ("TokenError", ValueError),
        ("ConfigError", ValueError),
        ("ShapeError", ValueError),
        ("StorageError", OSError),
        ("CorruptArtefact", errors.StorageError),
        ("BadName", errors.StorageError),
        ("MissingDependency", ImportError),
        ("AdapterError", errors.ModelError),
        ("FoldError", errors.ModelError),
    ],
)
def test_is_also_the_builtin(name, builtin):
    assert issubclass(getattr(errors, name), builtin)


def test_a_key_error_is_not_printed_as_a_repr():
    with pytest.raises(KeyError) as caught:
        raise SiteError("no site 'x'", fix="y")
    assert str(caught.value).startswith("no site 'x'\n")
